"""Between PIL images, arrays and tensors."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from images.modes import to_model_mode, usual_mode

Array = npt.NDArray[Any]
ImageInput = Image.Image | Array | Tensor
OutputType = Literal["pil", "np", "pt"]
OUTPUT_TYPES: tuple[OutputType, ...] = ("pil", "np", "pt")


def to_tensor(image: Image.Image, channels: int) -> Tensor:
    """Float `(C, H, W)` in [-1, 1] of a PIL image."""
    values = np.array(to_model_mode(image, channels), dtype=np.uint8)
    return from_8_bits(torch.from_numpy(values).view(image.height, image.width, channels).permute(2, 0, 1))


def from_8_bits(pixels: Tensor) -> Tensor:
    """Floats in [-1, 1] of uint8 `pixels` of any shape."""
    return pixels.float() / 127.5 - 1


def to_8_bits(images: Tensor) -> Tensor:
    """uint8 pixels of `images` of any shape in [-1, 1], clamped and rounded; NaN gives an arbitrary value."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pil(images: Tensor) -> list[Image.Image]:
    """8-bit images, "L" for one channel and "RGB" for three, of `(B, C, H, W)` in [-1, 1], clamped."""
    return pixels_to_pil(to_8_bits(images.cpu()))


def pixels_to_pil(pixels: Tensor) -> list[Image.Image]:
    """8-bit images, "L" for one channel and "RGB" for three, of uint8 pixels `(B, C, H, W)`."""
    arrays = pixels.cpu().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in arrays]


def as_pil(image: ImageInput) -> Image.Image:
    """An image as PIL: itself, or an array `(H, W[, C])` or tensor `(C, H, W)`, uint8 or floats in [0, 1].

    Raises:
        UserError: another type or shape, a number of channels outside 1 to 4, values that are not finite.
    """
    if isinstance(image, Image.Image):
        return usual_mode(image)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise UserError(
            f"an image is a PIL image, an array or a tensor, got {type(image).__name__}: open the file first"
        )
    if isinstance(image, Tensor):
        one = (image[0] if image.ndim == 4 and len(image) == 1 else image).detach().cpu()
        one = one.float() if one.is_floating_point() else one
        array: Array = (one.permute(1, 2, 0) if one.ndim == 3 else one).numpy()
    else:
        array = image
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (2, 3, 4)) or 0 in array.shape:
        raise UserError(
            f"an image is (H, W) or (H, W, C), as a tensor (C, H, W), C from 1 to 4; got {tuple(image.shape)}"
        )
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            raise UserError(f"an image holds uint8, or finite floats in [0, 1]; got {array.dtype}")
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(array)


def to_output(images: list[Image.Image], output_type: OutputType) -> list[Image.Image] | Array | Tensor:
    """The images as a list ("pil"), an array `(n, H, W, C)` ("np") or a tensor `(n, C, H, W)` ("pt"), both in [0, 1]."""
    if output_type == "pil":
        return images
    stacked = np.stack([np.asarray(image, dtype=np.float32) for image in images])
    stacked /= 65535 if images[0].mode[0] == "I" else 255
    array = stacked[..., None] if stacked.ndim == 3 else stacked
    return array if output_type == "np" else torch.from_numpy(array).permute(0, 3, 1, 2)
