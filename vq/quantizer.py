"""One small interface over vector-quantize-pytorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize


@dataclass
class QuantizerConfig:
    """`tokenizer.quantizer.*`."""

    kind: str = "vq"
    codebook_size: int = 256
    codebook_dim: int = 8  # few dimensions keep codes in use (ViT-VQGAN, arXiv 2110.04627)
    decay: float = 0.95  # of the codebook's moving average; the library's own 0.8 is too jumpy
    commitment_weight: float = 0.25
    dead_code_threshold: float = 1.0  # codes chosen less often a batch, on average, are replaced; 0 lets them pile up
    kmeans_init: bool = True

    def __post_init__(self) -> None:
        if self.kind != "vq":
            raise ValueError(f"tokenizer.quantizer.kind must be vq, got '{self.kind}'")
        for name in ("codebook_size", "codebook_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"tokenizer.quantizer.{name} must be at least 1, got {getattr(self, name)}")


class Quantized(NamedTuple):
    """latents `(B, D, h, w)`, codes `(B, h, w)` int64, loss (scalar)."""

    latents: Tensor
    codes: Tensor
    loss: Tensor


class VectorQuantizer(nn.Module):
    """Cosine codebook learned by moving averages, between 1 x 1 convolutions of our own.

    The library's projections fail when indices are decoded with image feature maps, hence codebook_dim=None there.
    All is computed in float32, outside autocast: distances in half precision pick wrong codes.
    """

    def __init__(self, config: QuantizerConfig, dim: int, sync_codebook: bool) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(dim, config.codebook_dim, 1)
        self.project_out = nn.Conv2d(config.codebook_dim, dim, 1)
        self.quantize = VectorQuantize(
            dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            use_cosine_sim=True,
            decay=config.decay,
            commitment_weight=config.commitment_weight,
            threshold_ema_dead_code=config.dead_code_threshold,
            kmeans_init=config.kmeans_init,
            rotation_trick=True,
            accept_image_fmap=True,
            sync_codebook=sync_codebook,
        )

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize `(B, D, h, w)`. In train mode this moves the codebook, also under no_grad."""
        with torch.autocast(latents.device.type, enabled=False):
            quantized, codes, loss = self.quantize(self.project_in(latents.float()))
            return Quantized(self.project_out(quantized), codes, loss)

    def decode(self, codes: Tensor) -> Tensor:
        """Latents `(B, D, h, w)` of codes `(B, h, w)`."""
        with torch.autocast(codes.device.type, enabled=False):
            return self.project_out(self.quantize.get_codes_from_indices(codes))
