"""Image files for the page's tests: plain, odd and damaged ones."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def sample_image(width=64, height=64) -> Image.Image:
    """Colors that differ everywhere."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x * 5 % 256, y * 3 % 256, (x + y) % 256], -1).astype(np.uint8))


def noise() -> Image.Image:
    """64 x 64 pixels that do not compress."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def written(folder: Path, name: str, data: bytes | Image.Image) -> str:
    path = folder / name
    path.write_bytes(encoded(data) if isinstance(data, Image.Image) else data)
    return str(path)


def png_header(width: int, height: int) -> bytes:
    """A small PNG whose header promises width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n"  # never ends if interpreted
BAD = {  # name -> (content, words of the message)
    "truncated.png": (encoded(noise())[:6000], "does not decode"),
    "truncated.jpg": (encoded(noise(), "JPEG")[:2000], "does not decode"),
    "text.png": (b"this is not an image", "not an image"),
    "empty.png": (b"", "not an image"),
    "tiny.png": (encoded(Image.new("RGB", (1, 1))), "sides of at least 8"),
    "line.png": (encoded(Image.new("L", (30_000, 1))), "sides of at least 8"),
    "bomb.png": (png_header(60_000, 60_000), "far too many pixels"),
    "large.png": (png_header(4_000, 4_000), "more than 12 million"),
    "script.eps": (POSTSCRIPT, "not an image"),
    "script.png": (POSTSCRIPT, "not an image"),
    "damaged.gif": (encoded(noise(), "GIF")[:40] + bytes(50), "not an image|does not decode"),
    "damaged.tiff": (encoded(noise(), "TIFF")[:2000], "does not decode"),
}
FRAMES = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
ODD = {
    "sixteen.png": encoded(Image.fromarray((np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16))),
    "cmyk.jpg": encoded(sample_image().convert("CMYK"), "JPEG"),
    "palette.png": encoded(sample_image().quantize(16)),
    "transparent.png": encoded(sample_image().convert("RGBA")),
    "animated.gif": encoded(sample_image(), "GIF", save_all=True, append_images=FRAMES),
    "really-a-png.jpg": encoded(sample_image()),
    "long.png": encoded(sample_image(64, 1000)),
    "no extension": encoded(sample_image()),
}


def same_outside(before: Image.Image, after: Image.Image, mask: Image.Image) -> bool:
    """Whether all pixels outside the mask are the same."""
    kept = np.asarray(mask) < 128
    return before.size == after.size and bool((np.asarray(before)[kept] == np.asarray(after)[kept]).all())


def changed_inside(before: Image.Image, after: Image.Image, mask: Image.Image) -> float:
    """The fraction of masked pixels that differ."""
    inside = np.asarray(mask) >= 128
    different = np.asarray(before)[inside] != np.asarray(after)[inside]
    return float(different.reshape(len(different), -1).any(1).mean())
