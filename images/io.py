"""Image files: reading with one set of limits, writing whole or not at all."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from common.errors import UserError
from common.files import replace_file
from images.modes import usual_mode

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not PostScript, which Pillow hands to an interpreter
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# what Pillow's decoders raise for damaged files
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, MemoryError, struct.error, IndexError, KeyError, TypeError,
           OverflowError, AttributeError, ZeroDivisionError, NotImplementedError, zlib.error)  # fmt: skip
FAST_PIXELS = 4_000_000  # larger PNGs are compressed less
MAX_PIXELS = 25_000_000  # of an image that is read, 6,000 x 4,000 and a little: memory stays below 2 GB


def read_image(path: str | Path) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says; of an animation the first frame.

    Raises:
        UserError: the file is missing or damaged, or has more than MAX_PIXELS.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(f"no image {path}: {'it is a folder; name a file' if path.is_dir() else 'check the path'}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(
                        f"{path} is {image.width} x {image.height} pixels, more than {MAX_PIXELS // 10**6} million: "
                        "make it smaller or crop it"
                    )
                if image.mode == "LAB":  # Pillow does not convert it
                    raise UserError(f"{path} is in Lab colours: save it again as an RGB image, such as PNG")
                image.load()
                return usual_mode(ImageOps.exif_transpose(image.copy()))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not an image that can be read ({error}): give a PNG or JPEG file") from error
    except DAMAGED as error:
        raise UserError(f"{path} does not decode ({error}): save it again as PNG") from error


def check_writable(path: str | Path, suffix: str = ".png") -> None:
    """Raise UserError unless a file ending in `suffix` can be written at `path`. Missing parent folders are made.

    Names that the system refuses raise OSError, which `common.errors.run_cli` turns into one line.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise UserError(f"cannot write {path}: the format is {suffix[1:].upper()}, so end its name in {suffix}")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {path}: no permission in {path.parent}; choose another folder")


def save_png(image: Image.Image, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a PNG with text `metadata`; `path` holds either its old content or the whole new image."""
    check_writable(path)
    info = PngImagePlugin.PngInfo()
    for key, value in (metadata or {}).items():
        info.add_text(key, value)
    level = 6 if image.width * image.height <= FAST_PIXELS else 1  # above, the usual level takes seconds
    replace_file(Path(path), lambda part: image.save(part, format="PNG", pnginfo=info, compress_level=level))


def save_gif(frames: Sequence[Image.Image], path: str | Path, milliseconds: int = 120, last: int = 1500) -> None:
    """Write an endless animation: `milliseconds` a frame, `last` for the last one; whole or not at all."""
    check_writable(path, ".gif")
    # A palette for each frame: one for all would come from the first frame, which is all masked.
    pages = [frame.convert("RGB").quantize(255, dither=Image.Dither.NONE) for frame in frames]
    durations = [milliseconds] * (len(pages) - 1) + [last]
    replace_file(
        Path(path),
        lambda part: pages[0].save(
            part, format="GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0, disposal=1
        ),
    )
