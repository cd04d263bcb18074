"""Decoding of codes to the pixels that a saved image holds: scores are of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.errors import UserError
from images.convert import to_8_bits

if TYPE_CHECKING:
    from diffusion.request import CodesToImages


def decode_pixels(tokenizer: CodesToImages, codes: Tensor) -> Tensor:
    """uint8 pixels `(B, C, H, W)` of codes `(B, h, w)`. Raises UserError where decoded values are not finite."""
    images = tokenizer.decode(codes)
    if not bool(torch.isfinite(images).all()):
        raise UserError("the tokenizer decodes to values that are not finite: its weights are damaged, train it again")
    return to_8_bits(images)
