"""What a browser sends: uploaded image and mask files, and the painted canvas; each is checked before it is decoded.

The canvas is a transparent layer over the image. Its size is the image's, scaled down so that no side exceeds CANVAS_SIDE.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from app.data_url import data_url
from app.status import note
from common.errors import UserError
from images.bounded import open_bounded
from images.formats import FORMATS
from images.io import read_image
from images.mask import image_mask
from images.modes import to_model_mode

CANVAS_SIDE = 1024  # pixels
MASK_COLOR = (230, 0, 126, 150)  # RGBA; translucent, so that the image below stays visible
PAINTED_ALPHA = 32  # of 255; a pixel of the canvas with at least this alpha counts as painted
PNG_URL = "data:image/png;base64,"


@dataclass(frozen=True)
class Limits:
    """What the page accepts.

    Attributes:
        upload_mb: megabytes of one request, so also of one file.
        uploads_mb: megabytes of all requests together that are being received at one time.
        storage_mb, files: megabytes and number of all uploads and results together; the oldest are deleted beyond it.
        pixels: most pixels of an image and of its mask.
        all_pixels: most pixels of all variants of one request together. Both limits keep memory below 2 GB.
        side: least length of an image's shorter side in pixels.
        ratio: greatest ratio of an image's longer side to its shorter side.
        variants, frames, grid, steps: greatest number per request.
        extend: most pixels that are added on one side of an image.
        examples: images that are sampled when the page is opened for the first time.
        waiting: most requests in the queue; the server turns further ones away.
        keep_hours: the server deletes uploads and results after this time.
    """

    upload_mb: int = 20
    uploads_mb: int = 256
    storage_mb: int = 512
    files: int = 2000
    pixels: int = 12_000_000
    all_pixels: int = 24_000_000
    side: int = 8
    ratio: int = 16
    variants: int = 8
    frames: int = 16
    grid: int = 64
    steps: int = 256
    extend: int = 512
    examples: int = 6
    waiting: int = 16
    keep_hours: int = 6


DEFAULT_LIMITS = Limits()


class Opened(NamedTuple):
    """What the page shows for an upload: the image and the mask as data URLs ("" for none), and a line of status."""

    image: str
    mask: str
    status: str


def upload_path(file: object) -> str | None:
    """The path of an uploaded file as gradio describes it, None for no file. Raises UserError for anything else."""
    if file is None:
        return None
    if isinstance(file, Mapping) and isinstance(path := file.get("path"), str):
        return path
    raise UserError("the file did not arrive: upload it again")


def read_upload(path: str | Path, limits: Limits) -> Image.Image:
    """The decoded image of an uploaded file. Its size is read and checked before it is decoded.

    Raises:
        UserError: not an image, damaged, a format not in FORMATS, or outside the limits. The message names no folder.
    """
    name = Path(path).name
    if not Path(path).is_file():
        raise UserError(f"{name} is no longer on the server: choose it again")
    try:
        with open_bounded(Path(path), FORMATS) as header:
            width, height = header.size
    except UserError as error:
        raise UserError(str(error).replace(str(path), name)) from error
    except UnidentifiedImageError:
        raise UserError(
            f"{name} is not an image that can be read: give a PNG, JPEG, WebP, GIF, BMP or TIFF file"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(f"{name} has far too many pixels: make it smaller") from None
    except Exception as error:  # decoders raise almost anything for damaged headers
        raise UserError(f"{name} does not decode: save it again as PNG") from error
    if width * height > limits.pixels:
        raise UserError(
            f"{name} is {width} x {height} pixels, more than {limits.pixels / 1e6:g} million: make it smaller or crop it"
        )
    if min(width, height) < limits.side or max(width, height) > limits.ratio * min(width, height):
        raise UserError(
            f"{name} is {width} x {height} pixels: give one with sides of at least {limits.side} pixels "
            f"and a longer side of at most {limits.ratio} times the shorter one"
        )
    try:
        return read_image(path)
    except UserError as error:
        raise UserError(str(error).replace(str(path), name)) from error


def open_image(image_path: str | None, mask_path: str | None, limits: Limits) -> Opened:
    """What the page shows for an uploaded image and, where there is one, its mask.

    Raises:
        UserError: a file that `read_upload` refuses, a mask without an image, of another size or without white.
    """
    if image_path is None:
        if mask_path is not None:
            raise UserError("choose an image first, then its mask")
        return Opened("", "", "")
    image = read_upload(image_path, limits)
    shown = to_model_mode(image, 3).resize(canvas_size(image.size), Image.Resampling.LANCZOS)
    shown_url = data_url(shown)
    size = f"{image.width} x {image.height} pixels"
    if mask_path is None:
        return Opened(shown_url, "", note(f"{size}. Paint over the part to change."))
    mask = read_upload(mask_path, limits)
    image_mask(image, mask)  # raises UserError where the mask does not fit
    return Opened(shown_url, data_url(mask_layer(mask)), note(f"{size}, with its mask. Paint to add, erase to remove."))


def canvas_size(size: tuple[int, int]) -> tuple[int, int]:
    """The (width, height) of the canvas for an image of `size`."""
    scale = min(1.0, CANVAS_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def mask_layer(mask: Image.Image) -> Image.Image:
    """A mask (128 and above is repainted) as paint on the canvas, RGBA."""
    white = to_model_mode(mask, 1, under="black").point(lambda value: 255 if value >= 128 else 0)
    white = white.resize(canvas_size(mask.size), Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGBA", white.size, MASK_COLOR), Image.new("RGBA", white.size), white)


def painted_mask(layer: Image.Image) -> Image.Image:
    """The mask of an RGBA canvas, mode "L": 255 where it is painted, else 0."""
    return layer.getchannel("A").point(lambda value: 255 if value >= PAINTED_ALPHA else 0)


def read_canvas(url: object, size: tuple[int, int]) -> Image.Image | None:
    """The mask of the canvas that the browser sent, None where nothing is painted.

    Args:
        url: "" or None, or a PNG with transparency as a data URL.
        size: (width, height) of the image below the canvas.

    Raises:
        UserError: `url` is anything else, or a canvas of another size.
    """
    if not url:
        return None
    try:
        with open_bounded(_png_bytes(url), ("PNG",)) as file:
            fits = file.size == canvas_size(size)
            mask = painted_mask(file.convert("RGBA")) if fits else None
    except Exception as error:  # a client may send anything
        raise UserError("the painted mask did not arrive whole: paint again") from error
    if mask is None:
        raise UserError("the painted mask belongs to another image: choose the image again, then paint")
    return mask if mask.getbbox() else None


def read_mask(canvas: object, mask_path: str | None, size: tuple[int, int], limits: Limits) -> Image.Image:
    """The mask for an image of `size`: the painted canvas, or the uploaded file where the canvas shows just that file.

    Raises:
        UserError: nothing is painted, or as `read_canvas` and `read_upload`.
    """
    painted = read_canvas(canvas, size)
    if painted is None:
        raise UserError("nothing is painted yet: paint over the part to change, or choose a mask file")
    if (
        mask_path is not None and max(size) > CANVAS_SIDE
    ):  # the canvas is coarser than the image: keep the file's detail
        mask = read_upload(mask_path, limits)
        if mask.size == size and painted_mask(mask_layer(mask)) == painted:
            return mask
    return painted.resize(size, Image.Resampling.NEAREST)


def _png_bytes(url: object) -> bytes:
    if not (isinstance(url, str) and url.startswith(PNG_URL)):
        raise ValueError("not a PNG data URL")
    return base64.b64decode(url.removeprefix(PNG_URL), validate=True)
