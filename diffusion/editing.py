"""Repainting, extending, varying and morphing given images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mask_to_codes(mask: Tensor, downsample: int, margin: int = 1) -> Tensor:
    """Codes that a pixel mask hides: bool `(B, H, W)` -> bool `(B, H / f, W / f)`.

    A code is hidden where any pixel of its f x f footprint is, and so are the `margin` codes around it, because encoder
    and decoder look at neighbours.
    """
    hidden = F.max_pool2d(mask[:, None].float(), downsample)
    return F.max_pool2d(hidden, 2 * margin + 1, stride=1, padding=margin)[:, 0] > 0
