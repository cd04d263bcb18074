"""Blending of repainted pixels into the image around them.

The old content of repainted pixels has no influence on the result.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from images.convert import Pixels
from images.mask import Mask

STRIP = 256  # rows that are blended at once, to limit the memory for a large image


def blend_edge(painted: Pixels, original: Pixels, mask: Mask, width: int) -> Pixels:
    """`painted` with a correction under the mask, so that it continues the kept pixels without a visible edge.

    The correction is the difference original - painted at the nearest kept pixel, smoothed. It decreases linearly with
    the distance to that pixel and is 0 from `width` pixels on. Use only the result's pixels under the mask: near the mask the
    others are neither those of `painted` nor the original ones.

    Args:
        painted: the new pixels, uint8 `(H, W)` or `(H, W, C)`.
        original: the original pixels, of the same shape. Pixels under the mask are not read.
        mask: bool `(H, W)`, True where pixels are repainted.
        width: the blend width in pixels, at least 1.
    """
    if not mask.any() or mask.all():
        return painted
    width = min(width, max(mask.shape))
    reach = 3 * width + 2  # pixels farther away have no influence
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    across = slice(max(0, columns[0] - reach), columns[-1] + 1 + reach)
    result = painted.copy()
    for top in range(rows[0], rows[-1] + 1, STRIP):
        down = slice(max(0, top - reach), top + STRIP + reach)
        blended = _blend(painted[down, across], original[down, across], mask[down, across], width)
        result[top : top + STRIP, across] = blended[top - down.start :][:STRIP]
    return result


def _blend(painted: Pixels, original: Pixels, mask: Mask, width: int) -> Pixels:
    if not mask.any() or mask.all():
        return painted
    difference = original.astype(np.float32) - painted
    distance, nearest = distance_transform_edt(mask, return_indices=True)  # 0 and itself for a kept pixel
    correction = difference[tuple(nearest)]
    sigma = (width / 3, width / 3) + (0,) * (painted.ndim - 2)  # no smoothing over channels
    weight = np.clip(1 - (distance - 1) / width, 0, 1).reshape(mask.shape + (1,) * (painted.ndim - 2))
    blended: Pixels = (painted + weight * gaussian_filter(correction, sigma)).round().clip(0, 255).astype(np.uint8)
    return blended
