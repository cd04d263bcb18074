"""The geometry of repainting: which part of a picture is worked on, what is hidden there, and how it is set back.

Boxes are (left, top, right, bottom) in pixels, right and bottom not included; masks are bool `(H, W)`, True where repainted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from common.errors import UserError
from common.imageio import MAX_PIXELS, to_model_mode, to_tensor, usual_mode

Box = tuple[int, int, int, int]
STRIP = 256  # rows that are feathered at once, which bounds the memory of a large picture


def picture_mask(image: Image.Image, mask_image: Image.Image | None = None, boxes: Sequence[Box] = ()) -> np.ndarray:
    """What is to be repainted: white of `mask_image` (128 and above), `boxes`, or without both where `image` is transparent.

    Raises:
        UserError: a mask of another size, a box outside the picture, no transparency where it is needed, nothing to repaint.
    """
    mask = np.zeros((image.height, image.width), dtype=bool)
    if mask_image is not None:
        if mask_image.size != image.size:
            raise UserError(
                f"the mask is {mask_image.width} x {mask_image.height} and the picture {image.width} x {image.height}: "
                "make the mask the picture's size"
            )
        mask |= np.asarray(to_model_mode(mask_image, 1, under="black")) >= 128  # white on a transparent layer
        if not (mask.any() or boxes):
            raise UserError("the mask has no white pixel: paint white what is to be repainted")
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
            raise UserError(
                f"the box {left},{top},{right},{bottom} does not lie in the picture of {image.width} x {image.height}: "
                "give left,top,right,bottom in pixels"
            )
        mask[top:bottom, left:right] = True
    if mask_image is None and not boxes:
        if not image.has_transparency_data:
            raise UserError("nothing to repaint: give a mask or a box, or a picture with transparent pixels")
        mask = np.asarray(writable_mode(image).getchannel("A")) < 128
        if not mask.any():
            raise UserError("no pixel of the picture is transparent: give a mask or a box")
    return mask


def mask_to_codes(mask: Tensor, downsample: int, margin: int = 1) -> Tensor:
    """Codes that a pixel mask hides: bool `(B, H, W)` -> bool `(B, H / f, W / f)`.

    A code is hidden where any pixel of its f x f footprint is, and so are the `margin` codes around, because encoder and
    decoder look at neighbours.
    """
    hidden = F.max_pool2d(mask[:, None].float(), downsample)
    return F.max_pool2d(hidden, 2 * margin + 1, stride=1, padding=margin)[:, 0] > 0


def blank_hidden(images: Tensor, hidden: Tensor) -> Tensor:
    """Replace hidden pixels `(B, H, W)` of images `(B, C, H, W)` by the mean of the kept ones, 0 where none is kept."""
    kept = ~hidden[:, None]
    mean = (images * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(kept, images, mean)


@dataclass(frozen=True)
class Region:
    """A part of a picture, and the size at which the model works on it.

    Attributes:
        box: may reach past the picture.
        size: (height, width) in pixels of the model's, multiples of f; other than the box's where the part is scaled.
    """

    box: Box
    size: tuple[int, int]

    @property
    def scaled(self) -> bool:
        left, top, right, bottom = self.box
        return self.size != (bottom - top, right - left)

    def inside(self, width: int, height: int) -> Box:
        """The part of the box that lies in a picture."""
        left, top, right, bottom = self.box
        return max(0, left), max(0, top), min(width, right), min(height, bottom)

    def placed(self, width: int, height: int) -> Box:
        """Where the part inside a picture lies in the model's pixels."""
        left, top, right, bottom = self.inside(width, height)
        across, down = self.size[1] / (self.box[2] - self.box[0]), self.size[0] / (self.box[3] - self.box[1])
        x0, y0 = round((left - self.box[0]) * across), round((top - self.box[1]) * down)
        x0, y0 = min(x0, self.size[1] - 1), min(y0, self.size[0] - 1)
        x1, y1 = round((right - self.box[0]) * across), round((bottom - self.box[1]) * down)
        return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)


def region_around(mask: np.ndarray, size: int, downsample: int, fit: bool = False) -> Region:
    """Where to work to repaint `mask` with a model of `size` pixels a side.

    At the picture's own resolution: a window of the model's size around the mask, larger where the mask leaves less than a
    code of surroundings. With `fit`, and for pictures narrower than the model, the picture is first scaled so that its
    shorter side is the model's.
    """
    lengths = mask.shape
    factor = size / min(lengths) if fit or min(lengths) < size else 1.0
    worked, box = [], []
    for axis, length in enumerate(lengths):
        hit = np.nonzero(mask.any(1 - axis))[0]
        low, high = int(hit[0]), int(hit[-1]) + 1
        worked.append(_own_size(round((high - low) * factor), round(length * factor), size, downsample))
        side = max(high - low, round(worked[-1] / factor))  # rounding must not cut off what is hidden
        begin = _place(low, high, side, length)
        box.append((begin, begin + side))
    return Region((box[1][0], box[0][0], box[1][1], box[0][1]), (worked[0], worked[1]))


def whole_region(width: int, height: int, size: int, downsample: int) -> Region:
    """A whole picture, scaled up where it is narrower than the model's `size`; sides that f does not divide are extended."""
    factor = max(1.0, size / min(width, height))
    worked = (_up(round(height * factor), downsample), _up(round(width * factor), downsample))
    if factor == 1:
        return Region((0, 0, worked[1], worked[0]), worked)
    return Region((0, 0, round(worked[1] / factor), round(worked[0] / factor)), worked)


def _own_size(extent: int, length: int, size: int, downsample: int) -> int:
    """How much of a side of `length` pixels is worked on to repaint `extent` of them."""
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


def cut_out(
    image: Image.Image, mask: np.ndarray | None, region: Region, channels: int, beyond: bool = False
) -> tuple[Tensor, Tensor]:
    """The region as the model sees it: images `(1, C, H, W)` in [-1, 1] with nothing of the hidden pixels, hidden `(1, H, W)`.

    Hidden pixels are blanked before anything is scaled. Beyond the picture its edge goes on, hidden if `beyond`.
    """
    box = region.inside(*image.size)
    pixels = to_tensor(colours(image.crop(box)), channels)[None]
    hidden = torch.zeros((1, *pixels.shape[-2:]), dtype=torch.bool)
    if mask is not None:
        hidden = torch.from_numpy(np.ascontiguousarray(mask[box[1] : box[3], box[0] : box[2]]))[None]
        pixels = blank_hidden(pixels, hidden)
    x0, y0, x1, y1 = region.placed(*image.size)
    if region.scaled:
        pixels = F.interpolate(pixels, (y1 - y0, x1 - x0), mode="bicubic", antialias=True).clamp(-1, 1)
        # any hidden pixel under a model's pixel hides it
        hidden = F.adaptive_max_pool2d(hidden[:, None].float(), (y1 - y0, x1 - x0))[:, 0] > 0
    padding = (x0, region.size[1] - x1, y0, region.size[0] - y1)
    return F.pad(pixels, padding, mode="replicate"), F.pad(hidden, padding, value=beyond)


def set_back(
    image: Image.Image, mask: np.ndarray, painted: Image.Image, region: Region, feather: int = 0, opaque: bool = False
) -> Image.Image:
    """`image` with the pixels under `mask` taken from `painted`, which stands for `region` of it; all others are the same.

    Args:
        feather: pixels inside the mask over which its colours are drawn to those of the nearest kept pixel.
        opaque: whether repainted pixels lose their transparency; otherwise the alpha channel is kept.

    Returns: a picture of the same size, and of the same mode if that is L, LA, RGB, RGBA or 16-bit grey.
    """
    before, image = image, writable_mode(image)
    box = region.inside(*image.size)
    part = painted.crop(region.placed(*image.size))
    if part.size != (box[2] - box[0], box[3] - box[1]):
        part = part.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC)
    where = (slice(box[1], box[3]), slice(box[0], box[2]))
    mode = image.mode.removesuffix("A") if image.mode != "I;16" else "L"
    drawn = np.asarray(part.convert(mode))
    result = np.array(image)
    target, hidden = result[where], mask[where]
    if feather:
        drawn = without_seam(drawn, np.asarray(to_model_mode(colours(image.crop(box)), len(mode))), hidden, feather)
    if image.mode == "I;16":
        target[hidden] = drawn[hidden].astype(np.uint16) * 257
    elif image.mode == mode:
        target[hidden] = drawn[hidden]
    else:  # alpha comes last
        target[hidden, :-1] = drawn.reshape(*hidden.shape, -1)[hidden]
        if opaque:
            target[hidden, -1] = 255
    finished = Image.fromarray(result)
    if before is image and "icc_profile" in image.info:  # the same numbers are then the same colours
        finished.info["icc_profile"] = image.info["icc_profile"]
    return finished


def without_seam(drawn: np.ndarray, kept: np.ndarray, hidden: np.ndarray, feather: int) -> np.ndarray:
    """`drawn` corrected inside the mask by what it misses at the nearest kept pixel, less and less over `feather` pixels.

    Nothing of what lies under the mask is read.

    Args:
        drawn, kept: uint8 `(H, W)` or `(H, W, C)`; hidden: bool `(H, W)`.
    """
    if not hidden.any() or hidden.all():
        return drawn
    feather = min(feather, max(hidden.shape))
    reach = 3 * feather + 2  # beyond which no kept pixel matters
    rows, columns = np.nonzero(hidden.any(1))[0], np.nonzero(hidden.any(0))[0]
    across = slice(max(0, columns[0] - reach), columns[-1] + 1 + reach)
    result = drawn.copy()
    for top in range(rows[0], rows[-1] + 1, STRIP):
        down = slice(max(0, top - reach), top + STRIP + reach)
        met = _meet(drawn[down, across], kept[down, across], hidden[down, across], feather)
        result[top : top + STRIP, across] = met[top - down.start :][:STRIP]
    return result


def _meet(drawn: np.ndarray, kept: np.ndarray, hidden: np.ndarray, feather: int) -> np.ndarray:
    if not hidden.any() or hidden.all():
        return drawn
    missing = kept.astype(np.float32) - drawn
    distance, nearest = distance_transform_edt(hidden, return_indices=True)
    spread = missing[tuple(nearest)]  # of the nearest kept pixel
    smooth = (feather / 3, feather / 3) + (0,) * (drawn.ndim - 2)
    share = np.clip(1 - (distance - 1) / feather, 0, 1).reshape(hidden.shape + (1,) * (drawn.ndim - 2))
    return (drawn + share * gaussian_filter(spread, smooth)).round().clip(0, 255).astype(np.uint8)


def writable_mode(image: Image.Image) -> Image.Image:
    """`image` itself if its mode is one that is kept, and otherwise as grey or RGB, with alpha where it is transparent."""
    image = usual_mode(image)
    if image.mode in ("LA", "RGBA") or (image.mode in ("L", "RGB", "I;16") and "transparency" not in image.info):
        return image
    if image.mode == "I;16":  # one value of which is transparent
        alpha = np.asarray(image) != image.info["transparency"]
        return Image.merge("LA", (to_model_mode(image, 1), Image.fromarray(alpha.astype(np.uint8) * 255)))
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("L", "1") else "RGBA")
    return to_model_mode(image, 1 if image.mode == "1" else 3)


def colours(image: Image.Image) -> Image.Image:
    """The colours of a picture without its alpha, white where it is fully transparent, whose colours nobody sees.

    Alpha is kept, so a translucent pixel's own colour is what is worked on: over white it would be mixed in twice.
    """
    image = writable_mode(image)
    if image.mode not in ("LA", "RGBA"):
        return image
    seen = image.getchannel("A").point(lambda alpha: 255 if alpha else 0)
    mode = image.mode.removesuffix("A")
    plain = Image.merge(mode, image.split()[:-1])
    return Image.composite(plain, Image.new(mode, image.size, "white"), seen)


def extended(image: Image.Image, left: int, top: int, right: int, bottom: int) -> tuple[Image.Image, np.ndarray]:
    """`image` on a larger canvas, its edge going on into the added pixels, and a mask of those.

    Raises UserError unless the numbers are at least 0 and one is above it.
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
