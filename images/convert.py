"""Conversion between PIL images, arrays and tensors.

Tensors are float images (B, C, H, W) or (C, H, W) in [-1, 1], or uint8 pixels in [0, 255].
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from images.modes import to_model_mode, usual_mode

Array = npt.NDArray[Any]  # an array of any data type
Pixels = npt.NDArray[np.uint8]  # (H, W) or (H, W, C)
ImageInput = Image.Image | Array | Tensor
OutputType = Literal["pil", "np", "pt"]
OUTPUT_TYPES: tuple[OutputType, ...] = ("pil", "np", "pt")


def to_tensor(image: Image.Image, channels: int) -> Tensor:
    """The float tensor `(C, H, W)` in [-1, 1] of a PIL image, converted to `channels` channels, 1 or 3."""
    values = np.array(to_model_mode(image, channels), dtype=np.uint8)
    return from_8_bits(torch.from_numpy(values).view(image.height, image.width, channels).permute(2, 0, 1))


def from_8_bits(pixels: Tensor) -> Tensor:
    """Floats in [-1, 1] of uint8 `pixels` of any shape: x / 127.5 - 1."""
    return pixels.float() / 127.5 - 1


def to_8_bits(images: Tensor) -> Tensor:
    """uint8 pixels of float `images` of any shape, clamped to [-1, 1] and rounded. A NaN becomes an arbitrary value."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pil(images: Tensor) -> list[Image.Image]:
    """8-bit PIL images of float images `(B, C, H, W)`, clamped to [-1, 1], in the modes of `pixels_to_pil`."""
    return pixels_to_pil(to_8_bits(images.cpu()))


def pixels_to_pil(pixels: Tensor) -> list[Image.Image]:
    """8-bit PIL images of uint8 pixels `(B, C, H, W)`. The mode is "L" for C = 1 and "RGB" for C = 3."""
    arrays = pixels.cpu().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in arrays]


def as_pil(image: ImageInput) -> Image.Image:
    """The PIL image of any supported input.

    Args:
        image: a PIL image; an array `(H, W)` or `(H, W, C)`; or a tensor `(H, W)`, `(C, H, W)` or `(1, C, H, W)`. Arrays
            and tensors are bool, uint8, or float in [0, 1] (clamped), as in diffusers; C is 1 to 4.

    Raises:
        UserError: another type, shape or data type, or values that are not finite.
    """
    if isinstance(image, Image.Image):
        return usual_mode(image)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise UserError(
            f"an image must be a PIL image, an array or a tensor, got {type(image).__name__}: open the file first"
        )
    if isinstance(image, Tensor):
        single = (image[0] if image.ndim == 4 and len(image) == 1 else image).detach().cpu()
        single = single.float() if single.is_floating_point() else single
        array: Array = (single.permute(1, 2, 0) if single.ndim == 3 else single).numpy()
    else:
        array = image
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (2, 3, 4)) or 0 in array.shape:
        raise UserError(
            "an image must have shape (H, W) or (H, W, C), as a tensor (C, H, W), with C from 1 to 4; "
            f"got {tuple(image.shape)}"
        )
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            raise UserError(f"an image must contain uint8 or finite floats in [0, 1], got {array.dtype}: convert it")
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(array)


def to_output(images: list[Image.Image], output_type: OutputType) -> list[Image.Image] | Array | Tensor:
    """The images in the form that `output_type` names, as in diffusers.

    Returns:
        "pil": `images` itself; "np": a float32 array `(n, H, W, C)` in [0, 1]; "pt": a float32 tensor `(n, C, H, W)` in
        [0, 1].
    """
    if output_type == "pil":
        return images
    stacked = np.stack([np.asarray(image, dtype=np.float32) for image in images])
    stacked /= 65535 if images[0].mode[0] == "I" else 255
    array = stacked[..., None] if stacked.ndim == 3 else stacked
    return array if output_type == "np" else torch.from_numpy(array).permute(0, 3, 1, 2)
