"""Masks for tests."""

import numpy as np

from images.mask import Box, Mask


def mask_of(shape: tuple[int, int], *boxes: Box) -> Mask:
    """A mask `(H, W)` that is True in `boxes`."""
    mask = np.zeros(shape, dtype=bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask
