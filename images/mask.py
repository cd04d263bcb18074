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
            raise UserError("the mask has no white pixel: paint the pixels white that should be repainted")
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
    """The images with each hidden pixel replaced by the mean of the kept pixels, or by 0 if none is kept.

    Args:
        images: `(B, C, H, W)`.
        hidden: bool `(B, H, W)`.
    """
    kept = ~hidden[:, None]
    mean = (images * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(kept, images, mean)
