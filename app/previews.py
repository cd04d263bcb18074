"""Previews: what the results would look like with the codes sampled so far. Codes that are still masked are grey tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from images.grid import image_grid
from images.mask import Mask
from images.modes import to_model_mode
from images.region import Region, paste_region

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion.pipeline import ImageGenerator

PREVIEW_SIDE = 512  # pixels; larger images are pasted and shown at this size
Preview = Callable[["Tensor"], list[Image.Image]]  # codes (n, h, w) -> images


def grid_preview(generator: ImageGenerator, columns: int) -> Preview:
    """Previews of an image grid with `columns` columns: one image."""
    return lambda codes: [image_grid(generator.preview(codes), columns)]


def region_preview(
    generator: ImageGenerator, image: Image.Image, mask: Mask | None, region: Region, feather: int = 0
) -> Preview:
    """Previews of an image in which the model works on `region`, pasted as the results will be.

    Args:
        mask: bool `(H, W)`, the pixels that are replaced; None replaces all.
        feather: blend width in pixels.
    """
    scale = min(1.0, PREVIEW_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    below = to_model_mode(image, 3).resize(size, Image.Resampling.LANCZOS)
    if mask is None:
        replaced = np.ones(size[::-1], dtype=bool)
    else:
        replaced = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    left, top = (round(edge * scale) for edge in region.box[:2])
    right, bottom = (round(edge * scale) for edge in region.box[2:])
    scaled = Region((left, top, max(left + 1, right), max(top + 1, bottom)), region.size)
    width = round(feather * scale)
    return lambda codes: [paste_region(below, replaced, decoded, scaled, width) for decoded in generator.preview(codes)]
