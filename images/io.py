"""Reading and writing of image files.

All files are read by one function with the same limits. A file is written completely or not at all.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from common.errors import UserError, printable
from common.files import check_replaceable, replace_file
from images.bounded import check_exif, open_bounded
from images.formats import FORMATS
from images.modes import usual_mode

# Exceptions of Pillow's decoders for damaged files.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, MemoryError, struct.error, IndexError, KeyError, TypeError,
           OverflowError, AttributeError, ZeroDivisionError, NotImplementedError, zlib.error)  # fmt: skip
FAST_PIXELS = 4_000_000  # PNG files of larger images are compressed less, because the usual level takes seconds
MAX_PIXELS = 25_000_000  # of an image that is read, a little more than 6,000 x 4,000: keeps memory below 2 GB


def read_image(path: str | Path) -> Image.Image:
    """The decoded image, rotated by its EXIF orientation; the first frame of an animation.

    The mode is one of Pillow's 8-bit modes or "I;16", see `images.modes.usual_mode`.

    Raises:
        UserError: the file is missing, damaged or in Lab colours, the image has more than MAX_PIXELS pixels, or the file
            breaks the limits of `images.bounded`.
    """
    path = Path(path)
    with _opened(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(
                f"{path} is {image.width} x {image.height} pixels, more than {MAX_PIXELS // 10**6} million: "
                "make it smaller or crop it"
            )
        if image.mode == "LAB":  # Pillow cannot convert it to RGB
            raise UserError(f"{path} is in Lab colours: save it again as an RGB image, such as PNG")
        image.load()
        check_exif(image, path)
        return usual_mode(ImageOps.exif_transpose(image.copy()))


def read_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels from an image's header, before any rotation. Raises UserError as `read_image`."""
    with _opened(Path(path)) as image:
        return image.size


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The opened image; the errors of Pillow's decoders become a UserError, also those of loading its pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is lower than Pillow's limit
            with open_bounded(path, FORMATS) as image:
                yield image
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image that can be read: give a PNG or JPEG file") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is not an image that can be read ({error}): give a PNG or JPEG file") from error
    except DAMAGED as error:
        raise UserError(f"{path} does not decode ({error}): save it again as PNG") from error


def check_writable(path: str | Path, suffix: str = ".png") -> None:
    """Check that a file with the name `path` can be written; missing parent folders are created.

    Raises:
        UserError: the name does not end in `suffix`, a folder or device has it, or its folder cannot be created or written
            to.
        OSError: the operating system refuses the name; `common.errors.run_cli` prints it in one line.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise UserError(f"cannot write {path}: the format is {suffix[1:].upper()}; give a name that ends in {suffix}")
    check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {path}: no permission in {path.parent}; choose another folder")


def save_png(image: Image.Image, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a PNG file with text `metadata`. If writing fails, an existing file is not changed.

    Raises:
        UserError: `path` cannot be written.
    """
    check_writable(path)
    info = PngImagePlugin.PngInfo()
    for key, value in (metadata or {}).items():
        info.add_text(key, printable(value))  # class names may contain bytes that PNG text cannot
    level = 6 if image.width * image.height <= FAST_PIXELS else 1
    replace_file(Path(path), lambda part: image.save(part, format="PNG", pnginfo=info, compress_level=level))


def save_gif(frames: Sequence[Image.Image], path: str | Path, milliseconds: int = 120, last: int = 1500) -> None:
    """Write an endless GIF animation. If writing fails, an existing file is not changed.

    Args:
        milliseconds: duration of each frame except the last.
        last: duration of the last frame in milliseconds.

    Raises:
        UserError: `path` cannot be written.
    """
    check_writable(path, ".gif")
    # Each frame has its own palette. A common one would be that of the first frame, in which all codes are masked.
    pages = [frame.convert("RGB").quantize(255, dither=Image.Dither.NONE) for frame in frames]
    durations = [milliseconds] * (len(pages) - 1) + [last]
    replace_file(
        Path(path),
        lambda part: pages[0].save(
            part, format="GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0, disposal=1
        ),
    )
