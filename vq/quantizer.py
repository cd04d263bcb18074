"""One small interface over vector-quantize-pytorch: latents to codes and back, losses by name.

Shapes: latents (B, D, h, w), codes (B, h, w) int64 in [0, K), sub-codes (B, h, w, G) in [0, V) with V ** G = K.
Everything here is float32 outside autocast: distances in half precision pick wrong codes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from vector_quantize_pytorch import FSQ, LFQ, SimVQ, VectorQuantize

from common.errors import UserError

KINDS = ("vq", "simvq", "fsq", "lfq", "bsq")
BINARY = ("lfq", "bsq")
MOST_CODES = 2**24


@dataclass
class QuantizerConfig:
    """`tokenizer.quantizer.*`. Each kind reads the keys that its comment names; the others are left alone."""

    kind: str = "vq"  # vq (learned codebook) | simvq | fsq (no codebook) | lfq | bsq (bits)
    codebook_size: int = 256
    # vq, simvq. Few dimensions keep codes in use (ViT-VQGAN, arXiv 2110.04627); fsq and the bits have their own.
    codebook_dim: int = 8
    cosine: bool = True  # vq: compare directions rather than points
    decay: float = 0.95  # vq: of the codebook's moving average; the library's own 0.8 is too jumpy
    # vq: codes chosen less often a batch (over all processes), on average, are replaced by latents; 0 lets them pile up
    dead_code_threshold: float = 1.0
    kmeans_init: bool = True  # vq: start from clusters of the first batch
    rotation_trick: bool = True  # vq, simvq: gradients turned with the latent rather than copied (arXiv 2410.06424)
    commitment_weight: float = 0.25  # vq, simvq, lfq, bsq: of |latent - its code| ** 2
    levels: list[int] = field(default_factory=list)  # fsq: values a dimension, such as [8, 8, 4, 4] for 1024
    groups: int = 1  # fsq, lfq, bsq: sub-codes a position; lfq and bsq also take their entropies by group
    entropy_weight: float = 0.02  # lfq, bsq: of (entropy of each position - gamma x entropy of their mean)
    entropy_gamma: float = 1.0  # lfq, bsq
    entropy_temperature: float = 0.01  # lfq, bsq: of the soft assignment; the values are those of arXiv 2409.16211

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"tokenizer.quantizer.kind must be one of {', '.join(KINDS)}, got '{self.kind}'")
        if self.codebook_size < 2:
            raise ValueError(f"tokenizer.quantizer.codebook_size must be at least 2, got {self.codebook_size}")
        if self.codebook_size > MOST_CODES:
            raise ValueError(
                f"tokenizer.quantizer.codebook_size must be at most {MOST_CODES}, since use is counted code by code, got "
                f"{self.codebook_size}"
            )
        for name in ("codebook_dim", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"tokenizer.quantizer.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.decay < 1:
            raise ValueError(f"tokenizer.quantizer.decay must lie in [0, 1), got {self.decay}")
        for name in ("dead_code_threshold", "commitment_weight", "entropy_weight", "entropy_gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"tokenizer.quantizer.{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.entropy_temperature < math.inf:
            raise ValueError(f"tokenizer.quantizer.entropy_temperature must be above 0, got {self.entropy_temperature}")
        if self.kind == "fsq":
            self._check_levels()
        elif self.levels:
            raise ValueError(f"tokenizer.quantizer.levels is for fsq: leave it out with kind {self.kind}")
        if self.kind in BINARY and self.codebook_size.bit_count() != 1:
            raise ValueError(
                f"tokenizer.quantizer.codebook_size must be a power of two for {self.kind}, got {self.codebook_size}"
            )
        if self.groups > 1:
            self._check_groups()

    def _check_levels(self) -> None:
        product = math.prod(self.levels)
        if min(self.levels, default=0) < 3:
            raise ValueError(
                "tokenizer.quantizer.levels of fsq must be numbers of at least 3 whose product is codebook_size, such as "
                f"[8, 8, 4, 4] for 1024; got {self.levels}"
            )
        if product != self.codebook_size:
            raise ValueError(
                f"tokenizer.quantizer.codebook_size {self.codebook_size} is not the product of the levels {self.levels}, "
                f"which is {product}: set codebook_size={product} or other levels"
            )

    def _check_groups(self) -> None:
        if self.kind not in ("fsq", *BINARY):
            raise ValueError(f"tokenizer.quantizer.groups is for fsq, lfq and bsq; {self.kind} has one code a position")
        parts = self.levels if self.kind == "fsq" else [2] * (self.codebook_size.bit_length() - 1)
        size, rest = divmod(len(parts), self.groups)
        products = {math.prod(parts[i * size : (i + 1) * size]) for i in range(self.groups)}
        if rest or len(products) > 1:
            what = f"levels {self.levels}" if self.kind == "fsq" else f"{len(parts)} bits"
            raise ValueError(f"tokenizer.quantizer.groups: {what} do not split into {self.groups} equal groups")


class Quantized(NamedTuple):
    """latents `(B, D, h, w)`, codes `(B, h, w)` int64, losses: weighted scalars by name, empty in eval mode."""

    latents: Tensor
    codes: Tensor
    losses: dict[str, Tensor]


class Quantizer(nn.Module, ABC):
    """Latents to codes and back, through the library's `quantize`.

    Attributes:
        dim: channels D of a latent.
        codebook_size: number of codes K.
        groups: sub-codes G a position; digit g of a code in base V = K ** (1 / G), lowest first, is sub-code g.
    """

    dim: int
    codebook_size: int
    groups: int
    quantize: Any

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize `(B, D, h, w)`. In train mode this moves a learned codebook, also under no_grad.

        In train mode latents that are not finite come back as they are, with a loss of NaN, and move no codebook. In
        eval mode the latents are exactly those of `decode(codes)`.
        """
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            if self.training:
                if not self._all_finite(latents):
                    codes = latents.new_zeros((len(latents), *latents.shape[2:]), dtype=torch.int64)
                    return Quantized(latents, codes, {"not_finite": latents.sum() * math.nan})
                quantized, codes, losses = self._train(latents)
                return Quantized(quantized, codes.long(), losses)
            codes = self._codes(latents).long()
            return Quantized(self._decode(codes), codes, {})

    def decode(self, codes: Tensor) -> Tensor:
        """Latents `(B, D, h, w)` of codes `(B, h, w)`."""
        with torch.autocast(codes.device.type, enabled=False):
            return self._decode(codes)

    def _all_finite(self, latents: Tensor) -> bool:
        # One answer for all processes: a codebook that only some of them move is no longer one codebook.
        finite = torch.isfinite(latents).all().float()
        if _processes() > 1:
            distributed.all_reduce(finite, distributed.ReduceOp.MIN)
        return bool(finite)

    @abstractmethod
    def _train(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantized latents, through which a gradient passes, codes, and losses by name."""

    def _codes(self, latents: Tensor) -> Tensor:
        return self.quantize(latents)[1]

    def _decode(self, codes: Tensor) -> Tensor:
        return self.quantize.indices_to_codes(codes)


class VectorQuantizer(Quantizer):
    """A codebook learned by moving averages; rarely used codes are replaced by latents of the batch."""

    def __init__(self, config: QuantizerConfig, sync_codebook: bool) -> None:
        super().__init__()
        self.dim, self.codebook_size, self.groups = config.codebook_dim, config.codebook_size, 1
        # The library's own projections fail on image feature maps when indices are decoded, hence no codebook_dim.
        self.quantize = VectorQuantize(
            dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            use_cosine_sim=config.cosine,
            decay=config.decay,
            commitment_weight=config.commitment_weight,
            threshold_ema_dead_code=config.dead_code_threshold,  # type: ignore[arg-type]
            kmeans_init=config.kmeans_init,
            rotation_trick=config.rotation_trick,
            accept_image_fmap=True,
            sync_codebook=sync_codebook,
        )

    def _train(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        quantized, codes, commitment = self.quantize(latents)
        return quantized, codes, {"commitment": commitment.sum()}

    def _codes(self, latents: Tensor) -> Tensor:
        if not self.quantize._codebook.initted:  # the library would start its codebook here, from pictures to score
            raise UserError("this tokenizer's codebook was never trained: train it, or set kmeans_init=false")
        return super()._codes(latents)

    def _decode(self, codes: Tensor) -> Tensor:
        return self.quantize.get_codes_from_indices(codes)


class SimVectorQuantizer(Quantizer):
    """A fixed random codebook seen through one learned linear map, so that all codes move together (arXiv 2411.02038)."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.dim, self.codebook_size, self.groups = config.codebook_dim, config.codebook_size, 1
        self.quantize = SimVQ(
            dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            channel_first=True,
            rotation_trick=config.rotation_trick,
            input_to_quantize_commit_loss_weight=config.commitment_weight,
        )

    def _train(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        quantized, codes, commitment = self.quantize(latents)
        return quantized, codes, {"commitment": commitment}


class FiniteScalarQuantizer(Quantizer):
    """Every dimension rounded to its own few levels; no codebook and no loss (arXiv 2309.15505)."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.dim, self.codebook_size, self.groups = len(config.levels), config.codebook_size, config.groups
        self.quantize = FSQ(levels=config.levels)

    def _train(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        quantized, codes = self.quantize(latents)
        return quantized, codes, {}


class BinaryQuantizer(Quantizer):
    """The sign of every dimension is one bit of the code: lfq (arXiv 2310.05737), or bsq on the unit sphere (2406.07548).

    The entropy loss is our own: the library's divides the mean by the number of processes without having summed it, and
    lists every code for the entropy of a position, which is a sum over bits.
    """

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.dim = config.codebook_size.bit_length() - 1
        self.codebook_size, self.groups, self.config = config.codebook_size, config.groups, config
        self.spherical = config.kind == "bsq"
        self.quantize = LFQ(codebook_size=config.codebook_size, spherical=self.spherical)

    def train(self, mode: bool = True) -> BinaryQuantizer:
        """The library stays in eval mode: in train mode it computes its entropy whatever that weighs."""
        super().train(mode)
        self.quantize.train(False)
        return self

    def _train(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if self.spherical:
            latents = F.normalize(latents, dim=1)
        quantized, codes, _ = self.quantize(latents)
        config = self.config
        losses = {"commitment": config.commitment_weight * F.mse_loss(latents, quantized.detach())}
        scale = self.dim**-0.5 if self.spherical else 1.0
        each, mean = binary_entropies(
            latents.movedim(1, -1).flatten(0, -2), scale, self.groups, config.entropy_temperature
        )
        losses["entropy_each"] = config.entropy_weight * each
        losses["entropy_mean"] = -config.entropy_weight * config.entropy_gamma * mean
        return latents + (quantized - latents).detach(), codes, losses


def binary_entropies(latents: Tensor, scale: float, groups: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Entropies in nats of the soft assignment softmax(2 <z, c> / temperature) over all c in {-scale, scale} ** d.

    Args:
        latents: z `(N, d)`.
        groups: the mean's entropy is taken over each of G parts of d / G bits and summed (arXiv 2406.07548, section 3.2).

    Returns:
        the mean over positions of the entropy of each, and the entropy of the mean over positions and processes. Of the
        latter this process's part carries the gradient; averaging gradients over processes makes it whole.
    """
    logits = 4 * scale * latents / temperature  # of the bit being 1: the softmax is a product over bits
    p = torch.sigmoid(logits)
    # H(p) = softplus(l) - p l, here without a difference of large numbers
    each = (F.softplus(-logits.abs()) + torch.sigmoid(-logits.abs()) * logits.abs()).sum(1).mean()
    total = latents.new_zeros(())
    for bits in p.chunk(groups, dim=1):
        joint = torch.ones_like(bits[:, :1])  # (N, 1), doubled by every bit
        for bit in bits.split(1, dim=1):
            joint = torch.cat([joint * (1 - bit), joint * bit], dim=1)
        mean = joint.mean(0)
        if _processes() > 1:
            whole = mean.detach().clone()
            distributed.all_reduce(whole)
            mean = mean + (whole / _processes() - mean).detach()
        total = total - torch.special.xlogy(mean, mean.clamp(min=1e-30)).sum()
    return each, total


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def build_quantizer(config: QuantizerConfig, sync_codebook: bool = False) -> Quantizer:
    """The quantizer that `config` names; `sync_codebook` exactly where several processes train one model."""
    if config.kind == "vq":
        return VectorQuantizer(config, sync_codebook)
    if config.kind == "simvq":
        return SimVectorQuantizer(config)
    return FiniteScalarQuantizer(config) if config.kind == "fsq" else BinaryQuantizer(config)
