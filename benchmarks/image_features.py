"""Features of many images, in batches."""

from __future__ import annotations

import torch
from torch import Tensor

from common.features import EfficientNetFeatures


@torch.no_grad()
def features_of(extractor: EfficientNetFeatures, images: Tensor, batch_size: int = 64) -> Tensor:
    """Features `(N, 1280)` of images `(N, C, H, W)` in [-1, 1]."""
    return torch.cat([extractor(images[start : start + batch_size]) for start in range(0, len(images), batch_size)])
