"""Quantizers: one interface over vector-quantize-pytorch for latents to codes, codes to latents, and named losses.

Shapes: latents (B, D, h, w), codes (B, h, w) int64 in [0, K), sub-codes (B, h, w, G) in [0, V) with V ** G = K.
Everything is computed in float32, outside autocast: distances in half precision select wrong codes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from vector_quantize_pytorch import FSQ, LFQ, SimVQ, VectorQuantize

from common.errors import UserError
from common.ranges import check_range
from vq.entropy import binary_entropies

KINDS = ("vq", "simvq", "fsq", "lfq", "bsq")
BINARY = ("lfq", "bsq")
MAX_CODES = 2**24
# Levels of fsq for about 2^8, 2^10, 2^12, 2^14 and 2^16 codes (arXiv 2309.15505, table 1).
FSQ_LEVELS = ([8, 6, 5], [8, 5, 5, 5], [7, 5, 5, 5, 5], [8, 8, 8, 6, 5], [8, 8, 8, 5, 5, 5])
MAX_DIM = 65_536


@dataclass
class QuantizerConfig:
    """`tokenizer.quantizer.*`. A comment that begins with kinds names those that read the key; others ignore it."""

    kind: str = "vq"  # vq (learned codebook) | simvq | fsq (no codebook) | lfq | bsq (bits)
    codebook_size: int = 256
    # vq, simvq: dimensions of a code. Few dimensions keep all codes in use (ViT-VQGAN, arXiv 2110.04627). For the other
    # kinds codebook_size and levels determine the dimensions.
    codebook_dim: int = 8
    cosine: bool = True  # vq: compare the directions of latents and codes; false: their euclidean distance
    decay: float = 0.95  # vq: of the codebook's moving average; the library's default of 0.8 changes codes too fast
    # vq: codes that a batch (of all processes) uses less often than this, on average, are replaced by latents; 0: never
    dead_code_threshold: float = 1.0
    kmeans_init: bool = True  # vq: initialise the codebook with the k-means clusters of the first batch
    rotation_trick: bool = True  # vq, simvq: rotate the gradient from code to latent (arXiv 2410.06424); false: copy it
    commitment_weight: float = 0.25  # vq, simvq, lfq, bsq: of |latent - code| ** 2
    # fsq: values of each dimension, such as [8, 8, 4, 4] for 1024 codes; their product is codebook_size. Empty: those of
    # FSQ_LEVELS that are nearest to codebook_size, which then becomes their product
    levels: list[int] = field(default_factory=list)
    groups: int = 1  # fsq, lfq, bsq: sub-codes of a code; lfq and bsq also compute the entropy of the mean by group
    entropy_weight: float = 0.02  # lfq, bsq: of (mean entropy of a latent - entropy_gamma * entropy of the mean)
    entropy_gamma: float = 1.0  # lfq, bsq
    entropy_temperature: float = 0.01  # lfq, bsq: of the soft assignment; these three values are from arXiv 2409.16211

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"tokenizer.quantizer.kind must be one of {', '.join(KINDS)}, got '{self.kind}'")
        self._check_ranges()
        self._check_codebook_size()
        if self.kind == "fsq":
            self._take_levels()
            self._check_levels()
        elif self.levels:
            raise ValueError(
                f"tokenizer.quantizer.levels is for fsq: set tokenizer.quantizer.levels=[] with kind {self.kind}"
            )
        if self.groups > 1:
            self._check_groups()

    def _check_codebook_size(self) -> None:
        if self.codebook_size < 2:
            raise ValueError(f"tokenizer.quantizer.codebook_size must be at least 2, got {self.codebook_size}")
        if self.codebook_size > MAX_CODES:
            raise ValueError(
                f"tokenizer.quantizer.codebook_size must be at most {MAX_CODES}, because training counts the use of each "
                f"code; got {self.codebook_size}"
            )
        if self.kind in BINARY and self.codebook_size.bit_count() != 1:
            bits = (self.codebook_size.bit_length() - 1) // self.groups * self.groups  # groups of equal size
            fitting = [2**n for n in (bits, bits + self.groups) if n]
            raise ValueError(
                f"tokenizer.quantizer.codebook_size must be a power of two for {self.kind}, got {self.codebook_size}: "
                f"set tokenizer.quantizer.codebook_size={' or '.join(map(str, fitting))}"
            )

    def _check_ranges(self) -> None:
        check_range("tokenizer.quantizer.codebook_dim", self.codebook_dim, 1, MAX_DIM)
        check_range("tokenizer.quantizer.groups", self.groups, 1, MAX_DIM)
        if not 0 <= self.decay < 1:
            raise ValueError(f"tokenizer.quantizer.decay must lie in [0, 1), got {self.decay}")
        for name in ("dead_code_threshold", "commitment_weight", "entropy_weight", "entropy_gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"tokenizer.quantizer.{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.entropy_temperature < math.inf:
            raise ValueError(f"tokenizer.quantizer.entropy_temperature must be above 0, got {self.entropy_temperature}")

    def _take_levels(self) -> None:
        """The levels of the paper where none are given; the codebook size becomes their product."""
        if self.levels:
            return

        def distance(levels: list[int]) -> float:
            return abs(math.log2(math.prod(levels) / self.codebook_size))

        levels = min(FSQ_LEVELS, key=distance)
        product = math.prod(levels)
        if distance(levels) > 1.2:  # a bit more than half of the two bits between the sizes of the paper
            raise ValueError(
                f"tokenizer.quantizer.codebook_size {self.codebook_size} is far from those of fsq's paper, so its levels "
                f"must be given: set tokenizer.quantizer.codebook_size={product}, or levels with this product"
            )
        self.levels, self.codebook_size = list(levels), product

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
                f"which is {product}: set tokenizer.quantizer.codebook_size={product}, or levels=[] to have them chosen"
            )

    def _check_groups(self) -> None:
        if self.kind not in ("fsq", *BINARY):
            raise ValueError(
                f"tokenizer.quantizer.groups is for fsq, lfq and bsq, and codes of {self.kind} have no sub-codes: "
                "set tokenizer.quantizer.groups=1"
            )
        parts = self.levels if self.kind == "fsq" else [2] * (self.codebook_size.bit_length() - 1)
        fitting = [groups for groups in range(1, len(parts) + 1) if splits_equally(parts, groups)]
        if self.groups not in fitting:
            what = f"levels {self.levels}" if self.kind == "fsq" else f"{len(parts)} bits"
            raise ValueError(
                f"tokenizer.quantizer.groups: {what} do not split into {self.groups} equal groups: "
                f"set tokenizer.quantizer.groups={' or '.join(map(str, fitting))}"
            )


def splits_equally(levels: Sequence[int], groups: int) -> bool:
    """Whether `levels`, split into `groups` runs of the same length, give each run the same number of codes."""
    size, rest = divmod(len(levels), groups)
    return not rest and len({math.prod(levels[i * size : (i + 1) * size]) for i in range(groups)}) == 1


class Quantized(NamedTuple):
    """The result of a quantizer.

    Attributes:
        latents: quantized latents `(B, D, h, w)`.
        codes: `(B, h, w)` int64 in [0, K).
        losses: weighted scalars by name; empty in eval mode.
    """

    latents: Tensor
    codes: Tensor
    losses: dict[str, Tensor]


class Quantizer(nn.Module, ABC):
    """Latents to codes and back.

    Subclasses keep the library's module as `quantize`: checkpoints contain this name.

    Attributes:
        dim: channels D of a latent.
        codebook_size: number of codes K.
        groups: sub-codes G of a code. Sub-code g is digit g of the code in base V = K ** (1 / G), the lowest digit first.
    """

    dim: int
    codebook_size: int
    groups: int
    quantize: Any  # the library's modules have no common base class

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize latents `(B, D, h, w)`. In train mode this updates a learned codebook, also under no_grad.

        If latents are not finite in train mode, they are returned unchanged with a loss of NaN, and no process updates
        its codebook. In eval mode the quantized latents equal `decode(codes)` exactly.
        """
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            if self.training:
                if not self._all_finite(latents):
                    codes = latents.new_zeros((len(latents), *latents.shape[2:]), dtype=torch.int64)
                    return Quantized(latents, codes, {"not_finite": latents.sum() * math.nan})
                quantized, codes, losses = self._train(latents)
                return Quantized(quantized, codes.long(), losses)
            codes = self._encode(latents).long()
            return Quantized(self._decode(codes), codes, {})

    def decode(self, codes: Tensor) -> Tensor:
        """Latents `(B, D, h, w)` of codes `(B, h, w)`."""
        with torch.autocast(codes.device.type, enabled=False):
            return self._decode(codes)

    def _all_finite(self, latents: Tensor) -> bool:
        # All processes must decide alike: if only some of them updated the codebook, their codebooks would differ.
        finite = torch.isfinite(latents).all().float()
        if distributed.is_initialized():
            distributed.all_reduce(finite, distributed.ReduceOp.MIN)
        return bool(finite)

    @abstractmethod
    def _train(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantized latents with a gradient to `latents`, codes, and losses by name."""

    def _encode(self, latents: Tensor) -> Tensor:
        """Codes of latents, in eval mode."""
        codes: Tensor = self.quantize(latents)[1]
        return codes

    def _decode(self, codes: Tensor) -> Tensor:
        """Latents of codes."""
        latents: Tensor = self.quantize.indices_to_codes(codes)
        return latents


class VectorQuantizer(Quantizer):
    """A codebook of moving averages of the latents (arXiv 1711.00937); rarely used codes are replaced by latents."""

    def __init__(self, config: QuantizerConfig, sync_codebook: bool) -> None:
        super().__init__()
        self.dim, self.codebook_size, self.groups = config.codebook_dim, config.codebook_size, 1
        # Without the library's codebook_dim: with its projections, the library cannot decode codes of feature maps.
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

    def _encode(self, latents: Tensor) -> Tensor:
        if not self.quantize._codebook.initted:  # the library would run k-means here, on images to evaluate
            raise UserError("this tokenizer's codebook was never trained: train it, or set kmeans_init=false")
        return super()._encode(latents)

    def _decode(self, codes: Tensor) -> Tensor:
        latents: Tensor = self.quantize.get_codes_from_indices(codes)
        return latents


class SimVectorQuantizer(Quantizer):
    """A fixed random codebook, transformed by one learned linear map: each update moves all codes (arXiv 2411.02038)."""

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
    """Rounds each dimension to one of its few levels; no codebook and no loss (arXiv 2309.15505)."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.dim, self.codebook_size, self.groups = len(config.levels), config.codebook_size, config.groups
        # The library reads a value from its table of codes, which a model on the meta device does not have.
        with_codes = torch.get_default_device().type != "meta"
        self.quantize = FSQ(levels=config.levels, return_indices=with_codes)

    def _train(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        quantized, codes = self.quantize(latents)
        return quantized, codes, {}


class BinaryQuantizer(Quantizer):
    """The sign of each dimension is one bit of the code: lfq (arXiv 2310.05737), or bsq on the unit sphere (2406.07548).

    The entropy loss does not use the library, for two reasons: the library divides the mean by the number of processes
    without a sum over them, and it enumerates all codes for the entropy of a latent, which is a sum over bits.
    """

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.dim = config.codebook_size.bit_length() - 1
        self.codebook_size, self.groups, self.config = config.codebook_size, config.groups, config
        self.spherical = config.kind == "bsq"
        self.quantize = LFQ(codebook_size=config.codebook_size, spherical=self.spherical)

    def train(self, mode: bool = True) -> BinaryQuantizer:
        """Set the mode, but keep the library's module in eval mode: in train mode it always computes its own entropy."""
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
        return latents + (quantized - latents).detach(), codes, losses  # straight-through gradient


def build_quantizer(config: QuantizerConfig, sync_codebook: bool = False) -> Quantizer:
    """The quantizer of `config`.

    Args:
        sync_codebook: whether processes keep one common codebook; True if several processes train one model.
    """
    if config.kind == "vq":
        return VectorQuantizer(config, sync_codebook)
    if config.kind == "simvq":
        return SimVectorQuantizer(config)
    return FiniteScalarQuantizer(config) if config.kind == "fsq" else BinaryQuantizer(config)
