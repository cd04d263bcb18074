"""Codes for a preview of grids that are not yet whole."""

from __future__ import annotations

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor


def nearest_known_codes(codes: Tensor, masked: Tensor) -> Tensor:
    """The codes with each masked one replaced by the nearest known one; 0 where none is known.

    The decoder's normalisation sees the whole grid. So the tiles of known codes have about their final colours.

    Args:
        codes: int64 `(n, h, w)`; values under `masked` are not read.
        masked: bool `(n, h, w)`.
    """
    filled = torch.where(masked, 0, codes)
    for one, mask in zip(filled, masked.cpu().numpy(), strict=True):
        if not mask.all():
            nearest = distance_transform_edt(mask, return_distances=False, return_indices=True)
            one.copy_(one[tuple(torch.from_numpy(nearest).to(one.device).long())])
    return filled
