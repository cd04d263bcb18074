"""Regions: which part of an image the model works on, how it is cropped, and how the result is pasted back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.errors import UserError
from images.convert import Array, to_tensor
from images.feather import blend_edge
from images.io import MAX_PIXELS
from images.mask import Box, blank_hidden
from images.modes import flatten_alpha, to_model_mode, writable_mode


@dataclass(frozen=True)
class Region:
    """A part of an image, and the size at which the model works on it.

    Attributes:
        box: (left, top, right, bottom) in the image's pixels; may reach past the image.
        size: (height, width) in the model's pixels, multiples of f; differs from the box's size where the part is scaled.
    """

    box: Box
    size: tuple[int, int]

    @property
    def scaled(self) -> bool:
        """Whether the model works at another resolution than the image's own."""
        left, top, right, bottom = self.box
        return self.size != (bottom - top, right - left)

    def inside(self, width: int, height: int) -> Box:
        """The part of the box that lies in an image of this size."""
        left, top, right, bottom = self.box
        return max(0, left), max(0, top), min(width, right), min(height, bottom)

    def placed(self, width: int, height: int) -> Box:
        """Where the part inside an image lies in the model's pixels."""
        left, top, right, bottom = self.inside(width, height)
        across, down = self.size[1] / (self.box[2] - self.box[0]), self.size[0] / (self.box[3] - self.box[1])
        x0, y0 = round((left - self.box[0]) * across), round((top - self.box[1]) * down)
        x0, y0 = min(x0, self.size[1] - 1), min(y0, self.size[0] - 1)
        x1, y1 = round((right - self.box[0]) * across), round((bottom - self.box[1]) * down)
        return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)


def region_around(mask: Array, size: int, downsample: int, fit: bool = False) -> Region:
    """The region to work on to repaint `mask` with a model of `size` pixels a side.

    At the image's own resolution: a window of the model's size around the mask, larger where the mask leaves less than
    one code of surroundings. With `fit`, and for images narrower than the model, the image is first scaled so that its
    shorter side is the model's.
    """
    lengths = mask.shape
    factor = size / min(lengths) if fit or min(lengths) < size else 1.0
    worked, box = [], []
    for axis, length in enumerate(lengths):
        hit = np.nonzero(mask.any(1 - axis))[0]
        low, high = int(hit[0]), int(hit[-1]) + 1
        worked.append(_window_side(round((high - low) * factor), round(length * factor), size, downsample))
        side = max(high - low, round(worked[-1] / factor))  # rounding must not cut off hidden pixels
        begin = _place(low, high, side, length)
        box.append((begin, begin + side))
    return Region((box[1][0], box[0][0], box[1][1], box[0][1]), (worked[0], worked[1]))


def whole_region(width: int, height: int, size: int, downsample: int) -> Region:
    """A whole image, scaled up where it is narrower than the model's `size`; sides that f does not divide are extended."""
    factor = max(1.0, size / min(width, height))
    worked = (_up(round(height * factor), downsample), _up(round(width * factor), downsample))
    if factor == 1:
        return Region((0, 0, worked[1], worked[0]), worked)
    return Region((0, 0, round(worked[1] / factor), round(worked[0] / factor)), worked)


def _window_side(extent: int, length: int, size: int, downsample: int) -> int:
    """How much of a side of `length` pixels the model works on to repaint `extent` of them."""
    if extent + 2 * downsample <= size or length <= size:
        return size
    return _up(min(extent + size // 2, length), downsample)


def _up(length: int, step: int) -> int:
    return -(-length // step) * step


def _place(low: int, high: int, side: int, length: int) -> int:
    """Where a window of `side` begins: around [low, high), inside [0, length) or, where it is larger, around that."""
    if side >= length:
        return -((side - length) // 2)
    return int(np.clip((low + high - side) // 2, 0, length - side))


def crop_region(
    image: Image.Image, mask: Array | None, region: Region, channels: int, beyond: bool = False
) -> tuple[Tensor, Tensor]:
    """The region as the model sees it: images `(1, C, H, W)` in [-1, 1] without hidden content, hidden `(1, H, W)`.

    Hidden pixels are blanked before anything is scaled. Beyond the image its edge is repeated, and counts as hidden if
    `beyond`.
    """
    box = region.inside(*image.size)
    pixels = to_tensor(flatten_alpha(image.crop(box)), channels)[None]
    hidden = torch.zeros((1, *pixels.shape[-2:]), dtype=torch.bool)
    if mask is not None:
        hidden = torch.from_numpy(np.ascontiguousarray(mask[box[1] : box[3], box[0] : box[2]]))[None]
        pixels = blank_hidden(pixels, hidden)
    x0, y0, x1, y1 = region.placed(*image.size)
    if region.scaled:
        pixels = F.interpolate(pixels, (y1 - y0, x1 - x0), mode="bicubic", antialias=True).clamp(-1, 1)
        # a pixel of the model is hidden where any pixel under it is
        hidden = F.adaptive_max_pool2d(hidden[:, None].float(), (y1 - y0, x1 - x0))[:, 0] > 0
    padding = (x0, region.size[1] - x1, y0, region.size[0] - y1)
    return F.pad(pixels, padding, mode="replicate"), F.pad(hidden, padding, value=beyond)


def paste_region(
    image: Image.Image, mask: Array, painted: Image.Image, region: Region, feather: int = 0, opaque: bool = False
) -> Image.Image:
    """`image` with the pixels under `mask` taken from `painted`, which stands for `region` of it; all others are the same.

    Args:
        feather: blend width, see `images.feather.blend_edge`; 0 pastes with a hard edge.
        opaque: whether repainted pixels lose their transparency; otherwise the alpha channel is kept.

    Returns:
        an image of the same size, and of the same mode if that is L, LA, RGB, RGBA or 16-bit grey.
    """
    before, image = image, writable_mode(image)
    box = region.inside(*image.size)
    part = painted.crop(region.placed(*image.size))
    if part.size != (box[2] - box[0], box[3] - box[1]):
        part = part.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC)
    where = (slice(box[1], box[3]), slice(box[0], box[2]))
    mode = image.mode.removesuffix("A") if image.mode != "I;16" else "L"
    new = np.asarray(part.convert(mode))
    result = np.array(image)
    target, hidden = result[where], mask[where]
    if feather:
        new = blend_edge(new, np.asarray(to_model_mode(flatten_alpha(image.crop(box)), len(mode))), hidden, feather)
    if image.mode == "I;16":
        target[hidden] = new[hidden].astype(np.uint16) * 257
    elif image.mode == mode:
        target[hidden] = new[hidden]
    else:  # alpha comes last
        target[hidden, :-1] = new.reshape(*hidden.shape, -1)[hidden]
        if opaque:
            target[hidden, -1] = 255
    finished = Image.fromarray(result)
    if before is image and "icc_profile" in image.info:  # then the same numbers are the same colours
        finished.info["icc_profile"] = image.info["icc_profile"]
    return finished


def extend_canvas(image: Image.Image, left: int, top: int, right: int, bottom: int) -> tuple[Image.Image, Array]:
    """`image` on a larger canvas, its edge repeated into the added pixels, and the mask of those.

    Raises:
        UserError: a negative number, no pixel to add, a canvas of more than MAX_PIXELS.
    """
    added = (left, top, right, bottom)
    if min(added) < 0 or not any(added):
        raise UserError(
            f"extend by at least one pixel on one side, got left {left}, top {top}, right {right}, bottom {bottom}"
        )
    image = writable_mode(image)
    size = (image.width + left + right, image.height + top + bottom)
    if size[0] * size[1] > MAX_PIXELS:
        raise UserError(f"{size[0]} x {size[1]} are more than {MAX_PIXELS // 10**6} million pixels: extend by fewer")
    pixels = np.asarray(image)
    around = [(top, bottom), (left, right)]
    canvas = np.pad(pixels, around + [(0, 0)] * (pixels.ndim - 2), mode="edge")
    mask = np.pad(np.zeros((image.height, image.width), dtype=bool), around, constant_values=True)
    return Image.fromarray(canvas), mask
