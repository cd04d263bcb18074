"""A soft edge between new and kept pixels, which changes no kept pixel and reads no hidden one."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from images.convert import Array

STRIP = 256  # rows that are blended at once; this bounds the memory of a large image


def blend_edge(painted: Array, kept: Array, hidden: Array, width: int) -> Array:
    """`painted` corrected inside the mask by its error at the nearest kept pixel, fading out over `width` pixels.

    Args:
        painted: uint8 `(H, W)` or `(H, W, C)`, the new pixels.
        kept: the original, of the same shape; nothing under the mask is read.
        hidden: bool `(H, W)`, the mask.
        width: the blend width in pixels.
    """
    if not hidden.any() or hidden.all():
        return painted
    width = min(width, max(hidden.shape))
    reach = 3 * width + 2  # beyond it no kept pixel matters
    rows, columns = np.nonzero(hidden.any(1))[0], np.nonzero(hidden.any(0))[0]
    across = slice(max(0, columns[0] - reach), columns[-1] + 1 + reach)
    result = painted.copy()
    for top in range(rows[0], rows[-1] + 1, STRIP):
        down = slice(max(0, top - reach), top + STRIP + reach)
        blended = _blend(painted[down, across], kept[down, across], hidden[down, across], width)
        result[top : top + STRIP, across] = blended[top - down.start :][:STRIP]
    return result


def _blend(painted: Array, kept: Array, hidden: Array, width: int) -> Array:
    if not hidden.any() or hidden.all():
        return painted
    error = kept.astype(np.float32) - painted
    distance, nearest = distance_transform_edt(hidden, return_indices=True)
    spread = error[tuple(nearest)]  # of the nearest kept pixel
    smooth = (width / 3, width / 3) + (0,) * (painted.ndim - 2)
    weight = np.clip(1 - (distance - 1) / width, 0, 1).reshape(hidden.shape + (1,) * (painted.ndim - 2))
    blended: Array = (painted + weight * gaussian_filter(spread, smooth)).round().clip(0, 255).astype(np.uint8)
    return blended
