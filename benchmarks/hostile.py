"""Damaged and hostile pictures to every command that reads one: each ends well or with one line, quickly, in little memory.

    python benchmarks/hostile.py --model runs/mnist --n 500

Prints how many there were, how they ended, the slowest and the peak of memory; exit code 1 where one broke the rules.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import sample
from app.uploads import DEFAULT_LIMITS, open_image
from common.errors import run_cli

LIMIT_S, LIMIT_BYTES = 5.0, 2 << 30


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG file with any header over any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    between = b"".join(chunk(kind, data) for kind, data in more)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + between
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def noise(rng: np.random.Generator, width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8), "RGBA").convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "TGA")


def truncated(rng: np.random.Generator) -> bytes:
    whole = encoded(noise(rng, 40, 40), FORMATS[rng.integers(len(FORMATS))])
    return whole[: rng.integers(1, len(whole))]


def flipped(rng: np.random.Generator) -> bytes:
    whole = bytearray(encoded(noise(rng, 40, 40), FORMATS[rng.integers(len(FORMATS))]))
    for place in rng.integers(0, min(len(whole), 400), rng.integers(1, 20)):
        whole[place] ^= 1 << int(rng.integers(8))
    return bytes(whole)


def animated(rng: np.random.Generator) -> bytes:
    frames = [noise(rng, 33, 35) for _ in range(5)]
    return encoded(frames[0], ("GIF", "WEBP", "PNG", "TIFF")[rng.integers(4)], save_all=True, append_images=frames[1:])


def turned(rng: np.random.Generator) -> bytes:
    exif = Image.Exif()
    exif[274] = int(rng.integers(0, 12))  # orientations 1 to 8 are valid
    return encoded(noise(rng, 40, 33), "JPEG", exif=exif.tobytes() + bytes(rng.integers(0, 256, 30, np.uint8)))


def modes(rng: np.random.Generator) -> bytes:
    kind, mode = [
        ("JPEG", "CMYK"), ("TIFF", "CMYK"), ("TIFF", "LAB"), ("PNG", "1"), ("PNG", "P"), ("GIF", "P"), ("PNG", "LA"),
        ("TIFF", "F"), ("TIFF", "I"), ("TIFF", "YCbCr"), ("PNG", "RGBA"),
    ][rng.integers(11)]  # fmt: skip
    image = noise(rng, 44, 36)
    if mode == "LAB":
        return encoded(Image.merge("LAB", image.split()), kind)
    return encoded(image.convert("L").convert(mode) if mode in "FI" else image.convert(mode), kind)


def sixteen_bits(rng: np.random.Generator) -> bytes:
    if rng.random() < 0.5:
        return encoded(Image.fromarray(rng.integers(0, 65536, (40, 50), np.uint16)), "PNG")
    channels, colour = [(3, 2), (2, 4), (4, 6)][rng.integers(3)]
    rows = b"".join(b"\0" + bytes(rng.integers(0, 256, 40 * 2 * channels, np.uint8)) for _ in range(40))
    return png(40, 40, 16, colour, rows)


def bomb(rng: np.random.Generator) -> bytes:
    case = rng.integers(5)
    if case == 0:  # a header that promises more than there is
        return png(int(rng.integers(20_000, 2**31)), int(rng.integers(20_000, 2**31)), 8, 6, b"\0" * 1000)
    if case == 1:  # 400 million pixels in a few kilobytes
        return png(20_000, 20_000, 1, 0, b"\0" * (2501 * 20_000))
    if case == 2:  # text that unpacks to a gigabyte
        return png(40, 40, 8, 0, b"\0" * (41 * 40), (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (1 << 26))))
    if case == 3:  # just below the limit
        return png(7_000, 7_000, 8, 2, b"\0" * (21_001 * 7_000))
    return png(60_000, 800, 8, 0, b"\0" * (60_001 * 800))


def thin(rng: np.random.Generator) -> bytes:
    long = int(rng.integers(2, 40_000))
    size = [(1, 1), (30_000, 1), (1, 30_000), (long, 2), (3, long), (40_000, 40), (2, 2), (5, 5)][rng.integers(8)]
    return encoded(noise(rng, *size), "PNG")


def nonsense(rng: np.random.Generator) -> bytes:
    return [
        b"", b"\0" * 1000, b"not a picture at all\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"GIF89a",
        b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", bytes(rng.integers(0, 256, 5000, np.uint8)),
        b"P6\n9999999 9999999\n255\n", b"P5 -3 4 255\n", b"BM" + b"\xff" * 100, b"II*\0" + b"\xff" * 100,
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    ][rng.integers(14)]  # fmt: skip


KINDS: dict[str, Callable[[np.random.Generator], bytes]] = {
    "truncated": truncated, "flipped bits": flipped, "animated": animated, "turned": turned, "modes": modes,
    "16 bits": sixteen_bits, "bomb": bomb, "thin": thin, "nonsense": nonsense,
}  # fmt: skip
PLACES = ("folder", "loop", "dangling", "none", "device", "locked name")


def hostile_file(folder: Path, index: int) -> tuple[str, Path]:
    """What number `index` is, and where it lies."""
    rng = np.random.default_rng(index)
    kinds = [*KINDS, "place"]
    kind = kinds[index % len(kinds)]
    suffix = (".png", ".jpg", ".gif", ".txt", "")[rng.integers(5)]  # mostly a wrong one
    path = folder / f"{index}{suffix}"
    if kind != "place":
        path.write_bytes(KINDS[kind](rng))
        return kind, path
    place = PLACES[rng.integers(len(PLACES))]
    if place == "folder":
        path.mkdir()
    elif place == "loop":
        path.symlink_to(path)
    elif place == "dangling":
        path.symlink_to(folder / "nowhere")
    elif place == "device":
        path = Path("/dev/zero")
    elif place == "locked name":
        path = folder / ("x" * 300)
    return place, path


def command_for(index: int, model: str, path: Path, folder: Path) -> list[str]:
    """A command that reads the file, in turn as picture and as mask."""
    good, out = str(folder / "good.png"), str(folder / "out.png")
    start = {"inpaint": ["--box", "0,0,2,2"], "outpaint": ["--right", "8"], "vary": [], "reconstruct": []}
    rest = ["--model", model, "--out", out]
    drawn = ["--steps", "2", "--label", "1"]
    which = (index // (len(KINDS) + 1)) % 7
    if which == 6:
        return ["app", str(path)]
    if which == 4:
        return ["inpaint", *rest, *drawn, "--image", good, "--mask", str(path)]
    if which == 5:
        return ["morph", *rest, *drawn, "--n", "3", "--image", good, "--other", str(path)]
    name = list(start)[which]
    return [name, *rest, *(drawn if name != "reconstruct" else []), *start[name], "--image", str(path)]


def upload(arguments: Sequence[str]) -> None:
    """What the page does with an upload before anyone may paint on it: judge, decode, show."""
    open_image(arguments[1], None, DEFAULT_LIMITS)


def attack(model: str, numbers: Sequence[int]) -> Iterator[tuple[str, int, float, str]]:
    """(kind, exit code, seconds, what is wrong or "") of each hostile input, in this process."""
    for index in numbers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            noise(np.random.default_rng(0), 40, 40).save(folder / "good.png")
            kind, path = hostile_file(folder, index)
            command = command_for(index, model, path, folder)
            errors, wrong, begin = io.StringIO(), "", time.monotonic()
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
                try:
                    code = run_cli(upload if command[0] == "app" else sample.main, command)
                except Exception:
                    code, wrong = 1, traceback.format_exc()
            seconds = time.monotonic() - begin
            lines = [line for line in errors.getvalue().splitlines() if line.startswith("error:")]
            if not wrong and (code not in (0, 2) or len(lines) != (code == 2)):
                wrong = f"exit code {code}: {errors.getvalue()}"
            if not wrong and seconds > LIMIT_S:
                wrong = f"{seconds:.1f} s"
            wanted = code == 0 and command[0] != "app"  # which writes nothing
            if not wrong and (list(folder.glob(".*.partial")) or wanted != (folder / "out.png").exists()):
                wrong = "left something half written"
            yield kind, code, seconds, wrong and f"{index} ({kind}, {command[0]}): {wrong}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--verbose", action="store_true", help="a line for each")
    args = parser.parse_args()
    ended: Counter[str] = Counter()
    wrong, slowest = [], (0.0, "")
    for kind, code, seconds, what in attack(args.model, range(args.n)):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if args.verbose:
            print(f"{kind:15} {code} {seconds:6.2f} s, peak {peak / 2**30:.2f} GiB")
        ended[{0: "drawn", 2: "one line"}.get(code, "broken")] += 1
        slowest = max(slowest, (seconds, kind))
        if what:
            wrong.append(what)
            print(what)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > LIMIT_BYTES:
        wrong.append("memory")
    print(
        f"{args.n} inputs: {dict(ended)}; slowest {slowest[0]:.2f} s ({slowest[1]}); "
        f"peak memory {peak / 2**30:.2f} GiB; {len(wrong)} wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
