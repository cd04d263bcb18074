"""Masks: the pixels of an image that the model does not see and repaints.

A mask is a bool array (H, W), True where pixels are repainted. A box is (left, top, right, bottom) in pixels, without the
column `right` and the row `bottom`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from images.modes import to_model_mode, writable_mode

GREY = range(32, 224)  # levels that are neither black nor white, even in a JPEG file
GREY_FRACTION = 0.1  # a mask image with a smaller fraction of grey pixels has soft edges
INVERTED_FRACTION = 0.9  # a mask image that selects more may be inverted

Box = tuple[int, int, int, int]
Mask = npt.NDArray[np.bool_]


def image_mask(image: Image.Image, mask_image: Image.Image | None = None, boxes: Sequence[Box] = ()) -> Mask:
    """The mask `(H, W)` of an image: the white pixels of `mask_image` and the pixels in `boxes`.

    Without mask image and boxes, it is the transparent pixels of `image`.

    Args:
        mask_image: an image of the same size; grey levels of 128 and above count as white, transparent pixels as black.

    Raises:
        UserError: the mask image has another size, a box is not inside the image, or no pixel is selected.
    """
    mask = np.zeros((image.height, image.width), dtype=bool)
    if mask_image is not None:
        if mask_image.size != image.size:
            raise UserError(
                f"the mask is {mask_image.width} x {mask_image.height} and the image {image.width} x {image.height}: "
                "give a mask of the image's size"
            )
        mask |= np.asarray(to_model_mode(mask_image, 1, under="black")) >= 128
        if not (mask.any() or boxes):
            transparent = " and the rest black; transparent pixels are kept" if mask_image.has_transparency_data else ""
            raise UserError(
                f"the mask has no white pixel: paint the pixels white that should be repainted{transparent}"
            )
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
            raise UserError(
                f"the box {left},{top},{right},{bottom} does not lie in the image of {image.width} x {image.height}: "
                "give left,top,right,bottom in pixels"
            )
        mask[top:bottom, left:right] = True
    if mask_image is None and not boxes:
        if not image.has_transparency_data:
            raise UserError("nothing to repaint: give a mask or a box, or an image with transparent pixels")
        mask = _transparent(image)
        if not mask.any():
            raise UserError("no pixel of the image is transparent: give a mask or a box")
    return mask


def mask_doubt(mask_image: Image.Image) -> str:
    """Why a mask image may be meant otherwise than `image_mask` reads it; "" where nothing speaks for that."""
    transparent = _transparent(mask_image)
    grey = np.asarray(to_model_mode(mask_image, 1, under="black"))
    if transparent.any() and (grey[~transparent] >= 128).all():
        return (
            f"the mask is white or transparent ({100 * transparent.mean():.3g}% of it): its white pixels are repainted "
            "and its transparent ones kept; to repaint the transparent ones, make them white and the others black"
        )
    between = np.isin(grey, GREY).mean()
    if between > GREY_FRACTION:
        return (
            f"{between:.1%} of the mask is neither black nor white: levels of 128 and above are repainted; is it a mask, and "
            "not an image?"
        )
    return ""


def mask_notes(image: Image.Image, mask_image: Image.Image | None, mask: Mask) -> list[str]:
    """What a user should know of the `mask` that `image_mask` returned: how large it is, and how it may be mistaken."""
    fraction = mask.mean()
    size = f"mask: {100 * fraction:.3g}% of the image is repainted"
    opaque = int((_transparent(image, 255) & mask).sum())
    if opaque:
        size += f"; {opaque} of these pixels were transparent or translucent and become opaque"
    if mask_image is not None and fraction > INVERTED_FRACTION:
        size += "; white is repainted and black is kept: invert the mask if you mean the opposite"
    doubt = "" if mask_image is None else mask_doubt(mask_image)
    return [size, doubt] if doubt else [size]


def _transparent(image: Image.Image, below: int = 128) -> Mask:
    """bool `(H, W)`: pixels with an alpha under `below`."""
    if not image.has_transparency_data:
        return np.zeros((image.height, image.width), dtype=bool)
    return np.asarray(writable_mode(image).getchannel("A")) < below


def blank_hidden(images: Tensor, hidden: Tensor) -> Tensor:
    """The images with each hidden pixel replaced by the mean of the kept pixels, or by 0 if none is kept.

    Args:
        images: `(B, C, H, W)`.
        hidden: bool `(B, H, W)`.
    """
    kept = ~hidden[:, None]
    mean = (images * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(kept, images, mean)
