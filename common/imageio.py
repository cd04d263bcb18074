"""Pictures in and out: PIL images, tensors in [-1, 1], PNG and GIF files written beside and renamed."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from common.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not PostScript, which Pillow hands to an interpreter
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# what Pillow's decoders raise for damaged files
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, MemoryError, struct.error, IndexError, KeyError, TypeError,
           OverflowError, AttributeError, ZeroDivisionError, NotImplementedError, zlib.error)  # fmt: skip
FAST_PIXELS = 4_000_000  # larger PNGs are packed less tightly
MAX_PIXELS = 25_000_000  # of a picture that is read, 6,000 x 4,000 and a little: memory stays below 2 GB


def read_image(path: str | Path) -> Image.Image:
    """The decoded picture, turned as its EXIF orientation says; of an animation the first frame.

    Raises:
        UserError: there is none, it is damaged, or it has more than MAX_PIXELS.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(
                f"no picture {path}: {'it is a folder; name a file' if path.is_dir() else 'check the path'}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(
                        f"{path} is {image.width} x {image.height} pixels, more than {MAX_PIXELS // 10**6} million: "
                        "make it smaller or cut a part out"
                    )
                if image.mode == "LAB":  # which Pillow does not convert
                    raise UserError(f"{path} is in Lab colours: save it again as an RGB picture, such as PNG")
                image.load()
                return usual_mode(ImageOps.exif_transpose(image.copy()))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a picture that can be read ({error}): give a PNG or JPEG file") from error
    except DAMAGED as error:
        raise UserError(f"{path} does not decode ({error}): save it again as PNG") from error


def usual_mode(image: Image.Image) -> Image.Image:
    """`image` itself, but integers and floats of other kinds as 8-bit ("L") or 16-bit grey ("I;16").

    Integers up to 255 and floats in [0, 255] are taken for 8 bits, floats in [0, 1] for shares of white.

    Raises UserError for values out of range.
    """
    if image.mode not in ("I", "F") and not (image.mode.startswith("I;16") and image.mode != "I;16"):
        return image
    values = np.asarray(image)
    if values.dtype.kind == "f":
        values = values * (255.0 if values.min() >= 0 and values.max() <= 1 else 1.0)
    if not (values.min() >= 0 and values.max() <= (255 if values.dtype.kind == "f" else 65535)):  # NaN is not either
        raise UserError(
            f"the picture's values run from {values.min():g} to {values.max():g}: save it with 8 or 16 bits"
        )
    if image.mode.startswith("I;16") or values.max() > 255:
        return Image.fromarray(values.astype(np.uint16))
    return Image.fromarray(values.round().astype(np.uint8))


def to_model_mode(image: Image.Image, channels: int, under: str = "white") -> Image.Image:
    """The picture as "L" (1 channel) or "RGB" (3): transparency over the colour `under`, 16 bits scaled down to 8."""
    image = usual_mode(image)
    if image.mode == "I;16":
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, under), image)
    return image.convert("L" if channels == 1 else "RGB")


def to_tensor(image: Image.Image, channels: int) -> Tensor:
    """Float `(C, H, W)` in [-1, 1]."""
    values = np.array(to_model_mode(image, channels), dtype=np.uint8)
    pixels = torch.from_numpy(values).view(image.height, image.width, channels).permute(2, 0, 1)
    return pixels.float() / 127.5 - 1


def to_pil(images: Tensor) -> list[Image.Image]:
    """`(B, C, H, W)` in [-1, 1], clamped, to 8-bit pictures, "L" for one channel and "RGB" for three."""
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    arrays = pixels.permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in arrays]


def check_writable(path: str | Path, suffix: str = ".png") -> None:
    """Raise UserError unless a file ending in `suffix` can be written at `path`. Missing parent folders are made.

    Names that the system refuses raise OSError, which `common.errors.run_cli` says in one line.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise UserError(f"cannot write {path}: it is written as {suffix[1:].upper()}, so end its name in {suffix}")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {path}: no permission in {path.parent}; choose another folder")


def save_png(image: Image.Image, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a PNG with text `metadata`; `path` holds either what it held or the whole new picture."""
    check_writable(path)
    info = PngImagePlugin.PngInfo()
    for key, value in (metadata or {}).items():
        info.add_text(key, value)
    level = 6 if image.width * image.height <= FAST_PIXELS else 1  # beyond, the usual level takes seconds
    _replace(Path(path), lambda beside: image.save(beside, format="PNG", pnginfo=info, compress_level=level))


def save_gif(frames: Sequence[Image.Image], path: str | Path, milliseconds: int = 120, last: int = 1500) -> None:
    """Write an endless animation: `milliseconds` a frame, `last` for the last one; written beside and renamed."""
    check_writable(path, ".gif")
    # a palette of each frame's own: one for all would be the first, which is all masked
    pages = [frame.convert("RGB").quantize(255, dither=Image.Dither.NONE) for frame in frames]
    shown = [milliseconds] * (len(pages) - 1) + [last]
    _replace(
        Path(path),
        lambda beside: pages[0].save(
            beside, format="GIF", save_all=True, append_images=pages[1:], duration=shown, loop=0, disposal=1
        ),
    )


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    beside = path.with_name(f".{path.name}.partial")
    try:
        write(beside)
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another path") from error


def make_grid(images: Sequence[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Pictures of one size, row by row in `columns` columns, `gap` white pixels apart."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    grid = Image.new(images[0].mode, size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        grid.paste(image, (column * (width + gap), row * (height + gap)))
    return grid


def make_pairs(above: Sequence[Image.Image], below: Sequence[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Pictures of one size in at most `columns` columns, each of `above` over its own of `below`."""
    columns = min(columns, len(above))
    blank = Image.new(above[0].mode, above[0].size, "white")
    cells: list[Image.Image] = []
    for start in range(0, len(above), columns):
        for row in (above[start : start + columns], below[start : start + columns]):
            cells += [*row, *[blank] * (columns - len(row))]
    return make_grid(cells, columns, gap)
