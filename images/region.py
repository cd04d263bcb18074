"""Regions: the part of an image that the model works on, how it is cropped, and how the result is pasted back.

The model works at sizes that are multiples of f, the side in pixels of the square that one code stands for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.errors import UserError
from images.convert import to_tensor
from images.feather import blend_edge
from images.io import MAX_PIXELS
from images.mask import Box, Mask, blank_hidden
from images.modes import flatten_alpha, to_model_mode, writable_mode


@dataclass(frozen=True)
class Region:
    """A part of an image, and the size at which the model works on it.

    Attributes:
        box: (left, top, right, bottom) in pixels of the image; may extend beyond the image.
        size: (height, width) in pixels of the model, multiples of f. If it differs from the size of the box, the part is
            scaled.
    """

    box: Box
    size: tuple[int, int]

    @property
    def scaled(self) -> bool:
        """Whether the model works at another resolution than that of the image."""
        left, top, right, bottom = self.box
        return self.size != (bottom - top, right - left)

    def inside(self, width: int, height: int) -> Box:
        """The part of the box inside an image of this size, in pixels of the image."""
        left, top, right, bottom = self.box
        return max(0, left), max(0, top), min(width, right), min(height, bottom)

    def placed(self, width: int, height: int) -> Box:
        """The part of the box inside an image of this size, in pixels of the model; at least one pixel wide and high."""
        left, top, right, bottom = self.inside(width, height)
        scale_x, scale_y = self.size[1] / (self.box[2] - self.box[0]), self.size[0] / (self.box[3] - self.box[1])
        x0, y0 = round((left - self.box[0]) * scale_x), round((top - self.box[1]) * scale_y)
        x0, y0 = min(x0, self.size[1] - 1), min(y0, self.size[0] - 1)
        x1, y1 = round((right - self.box[0]) * scale_x), round((bottom - self.box[1]) * scale_y)
        return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)


def region_around(mask: Mask, size: int, downsample: int, fit: bool = False) -> Region:
    """The region to work on when the pixels of `mask` are repainted.

    The region is a window of `size` x `size` pixels around the masked pixels, at the image's resolution. It is larger if
    such a window would leave less than one code around them.

    Args:
        mask: bool `(H, W)` with at least one True.
        size: side in pixels of the model's training images.
        downsample: f.
        fit: whether the image is first scaled, so that its shorter side is `size`. An image whose shorter side is smaller
            than `size` is always scaled.
    """
    lengths = mask.shape
    scale = size / min(lengths) if fit or min(lengths) < size else 1.0
    model_sides, spans = [], []
    for axis, length in enumerate(lengths):
        masked = np.nonzero(mask.any(1 - axis))[0]
        low, high = int(masked[0]), int(masked[-1]) + 1
        model_sides.append(_window_side(round((high - low) * scale), round(length * scale), size, downsample))
        side = max(high - low, round(model_sides[-1] / scale))  # rounding must not cut off masked pixels
        start = _window_start(low, high, side, length)
        spans.append((start, start + side))
    (top, bottom), (left, right) = spans
    return Region((left, top, right, bottom), (model_sides[0], model_sides[1]))


def whole_region(width: int, height: int, size: int, downsample: int) -> Region:
    """The region of a whole image. Its sides are extended to multiples of f.

    An image smaller than the model's `size` is scaled up: its shorter side becomes that size.
    """
    scale = max(1.0, size / min(width, height))
    model_size = (_round_up(round(height * scale), downsample), _round_up(round(width * scale), downsample))
    if scale == 1:
        return Region((0, 0, model_size[1], model_size[0]), model_size)
    return Region((0, 0, round(model_size[1] / scale), round(model_size[0] / scale)), model_size)


def _window_side(extent: int, length: int, size: int, downsample: int) -> int:
    """The side of a window for `extent` masked pixels along a side of `length` pixels, all in pixels of the model."""
    if extent + 2 * downsample <= size or length <= size:
        return size
    return _round_up(min(extent + size // 2, length), downsample)


def _round_up(length: int, step: int) -> int:
    return -(-length // step) * step


def _window_start(low: int, high: int, side: int, length: int) -> int:
    """The start of a window of `side` pixels centred on [low, high) as far as [0, length) allows.

    A window larger than the image is centred on the image.
    """
    if side >= length:
        return -((side - length) // 2)
    return int(np.clip((low + high - side) // 2, 0, length - side))


def crop_region(
    image: Image.Image, mask: Mask | None, region: Region, channels: int, beyond: bool = False
) -> tuple[Tensor, Tensor]:
    """The input of the model for a region: images `(1, C, H, W)` in [-1, 1], and the hidden pixels as bool `(1, H, W)`.

    Hidden pixels are blanked before scaling, so that their content has no influence on other pixels. Outside the image,
    the pixels of its edge are repeated.

    Args:
        mask: the hidden pixels of `image`; None hides none.
        channels: C, 1 or 3.
        beyond: whether pixels outside the image count as hidden.
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
        # a pixel of the model is hidden if any of the image's pixels under it is
        hidden = F.adaptive_max_pool2d(hidden[:, None].float(), (y1 - y0, x1 - x0))[:, 0] > 0
    padding = (x0, region.size[1] - x1, y0, region.size[0] - y1)
    return F.pad(pixels, padding, mode="replicate"), F.pad(hidden, padding, value=beyond)


def paste_region(
    image: Image.Image, mask: Mask, painted: Image.Image, region: Region, feather: int = 0, opaque: bool = False
) -> Image.Image:
    """The image with the pixels under `mask` replaced by those of `painted`. All other pixels are unchanged.

    Args:
        painted: the model's result for `region`, "L" or "RGB", of size `region.size`.
        feather: blend width in pixels, see `images.feather.blend_edge`; 0 pastes with a hard edge.
        opaque: whether pixels under the mask become opaque, so that new content is visible. False keeps the alpha channel.

    Returns:
        an image of the same size, in the mode that `images.modes.writable_mode` gives.
    """
    given, image = image, writable_mode(image)
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
    else:  # the last channel is alpha
        target[hidden, :-1] = new.reshape(*hidden.shape, -1)[hidden]
        if opaque:
            target[hidden, -1] = 255
    finished = Image.fromarray(result)
    if given is image and "icc_profile" in image.info:  # without a conversion the colour profile stays valid
        finished.info["icc_profile"] = image.info["icc_profile"]
    return finished


def extend_canvas(image: Image.Image, left: int, top: int, right: int, bottom: int) -> tuple[Image.Image, Mask]:
    """The image with pixels added on its sides, and the mask of the added pixels. They repeat the edge of the image.

    Args:
        left, top, right, bottom: numbers of pixels to add on each side.

    Raises:
        UserError: a number is negative, all are 0, or the result would have more than MAX_PIXELS pixels.
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
