"""Masks: which pixels of an image are hidden from the model and painted anew.

Boxes are (left, top, right, bottom) in pixels, right and bottom not included. Masks are bool `(H, W)`, True where repainted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from images.convert import Array
from images.modes import to_model_mode, writable_mode

Box = tuple[int, int, int, int]


def image_mask(image: Image.Image, mask_image: Image.Image | None = None, boxes: Sequence[Box] = ()) -> Array:
    """The mask of an image: white of `mask_image` (128 and above) and `boxes`, or without both the transparent pixels.

    Raises:
        UserError: a mask of another size, a box outside the image, no transparency where it is needed, an empty mask.
    """
    mask = np.zeros((image.height, image.width), dtype=bool)
    if mask_image is not None:
        if mask_image.size != image.size:
            raise UserError(
                f"the mask is {mask_image.width} x {mask_image.height} and the image {image.width} x {image.height}: "
                "make the mask the image's size"
            )
        mask |= np.asarray(to_model_mode(mask_image, 1, under="black")) >= 128  # white on a transparent layer
        if not (mask.any() or boxes):
            raise UserError("the mask has no white pixel: paint white what is to be repainted")
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
        mask = np.asarray(writable_mode(image).getchannel("A")) < 128
        if not mask.any():
            raise UserError("no pixel of the image is transparent: give a mask or a box")
    return mask


def blank_hidden(images: Tensor, hidden: Tensor) -> Tensor:
    """Replace hidden pixels `(B, H, W)` of images `(B, C, H, W)` by the mean of the kept ones, 0 where none is kept."""
    kept = ~hidden[:, None]
    mean = (images * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(kept, images, mean)
