"""Damaged and hostile image files, the same for the same number."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "TGA")
MODES = [
    ("JPEG", "CMYK"), ("TIFF", "CMYK"), ("TIFF", "LAB"), ("PNG", "1"), ("PNG", "P"), ("GIF", "P"), ("PNG", "LA"),
    ("TIFF", "F"), ("TIFF", "I"), ("TIFF", "YCbCr"), ("PNG", "RGBA"),
]  # fmt: skip
ORIENTATION = 274  # the EXIF tag; 1 to 8 are valid


def png(width: int, height: int, depth: int, color: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG file with the given header over the given rows; the two need not agree. `more` are further chunks."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    between = b"".join(chunk(kind, data) for kind, data in more)
    return b"\x89PNG\r\n\x1a\n" + header + between + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def noise(rng: np.random.Generator, width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A valid image of random pixels."""
    return Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8), "RGBA").convert(mode)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def truncated(rng: np.random.Generator) -> bytes:
    """The beginning of a valid file."""
    whole = encode(noise(rng, 40, 40), FORMATS[rng.integers(len(FORMATS))])
    return whole[: rng.integers(1, len(whole))]


def flipped_bits(rng: np.random.Generator) -> bytes:
    """A file with up to 19 bits flipped near its beginning."""
    whole = bytearray(encode(noise(rng, 40, 40), FORMATS[rng.integers(len(FORMATS))]))
    for place in rng.integers(0, min(len(whole), 400), rng.integers(1, 20)):
        whole[place] ^= 1 << int(rng.integers(8))
    return bytes(whole)


def animated(rng: np.random.Generator) -> bytes:
    """A valid file of five frames."""
    frames = [noise(rng, 33, 35) for _ in range(5)]
    return encode(frames[0], ("GIF", "WEBP", "PNG", "TIFF")[rng.integers(4)], save_all=True, append_images=frames[1:])


def exif(rng: np.random.Generator) -> bytes:
    """A JPEG file whose EXIF data has any orientation and 30 random bytes at the end."""
    data = Image.Exif()
    data[ORIENTATION] = int(rng.integers(0, 12))
    return encode(noise(rng, 40, 33), "JPEG", exif=data.tobytes() + bytes(rng.integers(0, 256, 30, np.uint8)))


def rare_modes(rng: np.random.Generator) -> bytes:
    """A valid file of a mode that is not RGB."""
    kind, mode = MODES[rng.integers(len(MODES))]
    image = noise(rng, 44, 36)
    if mode == "LAB":
        return encode(Image.merge("LAB", image.split()), kind)
    return encode(image.convert("L").convert(mode) if mode in "FI" else image.convert(mode), kind)


def sixteen_bits(rng: np.random.Generator) -> bytes:
    """A valid PNG of 16 bits a channel."""
    if rng.random() < 0.5:
        return encode(Image.fromarray(rng.integers(0, 65536, (40, 50), np.uint16)), "PNG")
    channels, color = [(3, 2), (2, 4), (4, 6)][rng.integers(3)]
    rows = b"".join(b"\0" + bytes(rng.integers(0, 256, 40 * 2 * channels, np.uint8)) for _ in range(40))
    return png(40, 40, 16, color, rows)


def bomb(rng: np.random.Generator) -> bytes:
    """A small file that decodes, or claims to decode, to very many bytes."""
    case = rng.integers(5)
    if case == 0:  # the header claims more pixels than there are
        return png(int(rng.integers(20_000, 2**31)), int(rng.integers(20_000, 2**31)), 8, 6, b"\0" * 1000)
    if case == 1:  # 400 million pixels
        return png(20_000, 20_000, 1, 0, b"\0" * (2501 * 20_000))
    if case == 2:  # a text of 64 MiB
        return png(40, 40, 8, 0, b"\0" * (41 * 40), (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (1 << 26))))
    if case == 3:  # just below Pillow's limit
        return png(7_000, 7_000, 8, 2, b"\0" * (21_001 * 7_000))
    return png(60_000, 800, 8, 0, b"\0" * (60_001 * 800))


def thin(rng: np.random.Generator) -> bytes:
    """A valid PNG of extreme proportions or of few pixels."""
    long = int(rng.integers(2, 40_000))
    size = [(1, 1), (30_000, 1), (1, 30_000), (long, 2), (3, long), (40_000, 40), (2, 2), (5, 5)][rng.integers(8)]
    return encode(noise(rng, *size), "PNG")


def not_an_image(rng: np.random.Generator) -> bytes:
    """Bytes of another kind of file, or a header without an image."""
    return [
        b"", b"\0" * 1000, b"not a picture at all\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"GIF89a",
        b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", bytes(rng.integers(0, 256, 5000, np.uint8)),
        b"P6\n9999999 9999999\n255\n", b"P5 -3 4 255\n", b"BM" + b"\xff" * 100, b"II*\0" + b"\xff" * 100,
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    ][rng.integers(14)]  # fmt: skip


CONTENTS: dict[str, Callable[[np.random.Generator], bytes]] = {
    "truncated": truncated, "flipped bits": flipped_bits, "animated": animated, "EXIF": exif, "rare mode": rare_modes,
    "16 bits": sixteen_bits, "bomb": bomb, "thin": thin, "not an image": not_an_image,
}  # fmt: skip
PATHS = ("folder", "link to itself", "broken link", "missing", "device", "long name")  # paths without an image
KINDS = [*CONTENTS, "path"]


def write_hostile_file(folder: Path, index: int) -> tuple[str, Path]:
    """Write file number `index` into `folder`; its kind and its path."""
    rng = np.random.default_rng(index)
    kind = KINDS[index % len(KINDS)]
    suffix = (".png", ".jpg", ".gif", ".txt", "")[rng.integers(5)]  # mostly a wrong one
    path = folder / f"{index}{suffix}"
    if kind != "path":
        path.write_bytes(CONTENTS[kind](rng))
        return kind, path
    kind = PATHS[rng.integers(len(PATHS))]
    if kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "broken link":
        path.symlink_to(folder / "nowhere")
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "long name":
        path = folder / ("x" * 300)
    return kind, path
