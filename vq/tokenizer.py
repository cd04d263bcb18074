"""Tokenizer: pictures to a grid of codes and back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.checkpoint import load_weights, read_model, save_model
from common.config import TrainConfig
from common.errors import UserError
from vq.autoencoder import Decoder, Encoder
from vq.discriminator import DiscriminatorConfig
from vq.loss import LossConfig
from vq.quantizer import QuantizerConfig, VectorQuantizer


@dataclass
class TokenizerConfig:
    """`tokenizer.*` of a run's configuration."""

    downsample: int = 4  # f: pixels a code, along each side
    width: int = 32  # channels at full size
    multipliers: list[int] = field(default_factory=lambda: [1, 2, 4])  # of the width, one a level, full size first
    blocks: int = 1  # residual blocks a level, on both sides
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.downsample < 2 or math.log2(self.downsample) % 1:
            raise ValueError(f"tokenizer.downsample must be 2, 4, 8, ..., got {self.downsample}")
        if len(self.multipliers) != math.log2(self.downsample) + 1:
            raise ValueError(
                f"tokenizer.multipliers needs {int(math.log2(self.downsample)) + 1} numbers for downsample "
                f"{self.downsample}, got {self.multipliers}"
            )
        if self.width < 1 or self.blocks < 1 or min(self.multipliers) < 1:
            raise ValueError("tokenizer.width, blocks and multipliers must be at least 1")


class TokenizerOutput(NamedTuple):
    """reconstruction `(B, C, H, W)`, not clamped; codes `(B, h, w)`; quantizer_loss (scalar)."""

    reconstruction: Tensor
    codes: Tensor
    quantizer_loss: Tensor


class Tokenizer(nn.Module):
    """VQ-GAN generator (arXiv 2012.09841): encoder, quantizer, decoder.

    Args:
        config: the architecture; `image_size` and `channels` are those of the pictures.
        sync_codebook: whether processes share one codebook; True exactly where there are several.
    """

    def __init__(self, config: TokenizerConfig, image_size: int, channels: int, sync_codebook: bool = False) -> None:
        super().__init__()
        if image_size % config.downsample:
            raise UserError(
                f"data.image_size {image_size} is not a multiple of tokenizer.downsample {config.downsample}"
            )
        self.config, self.image_size, self.channels = config, image_size, channels
        self.downsample, self.codebook_size = config.downsample, config.quantizer.codebook_size
        self.encoder = Encoder(channels, config.width, config.multipliers, config.blocks)
        self.quantizer = VectorQuantizer(config.quantizer, config.width * config.multipliers[-1], sync_codebook)
        self.decoder = Decoder(channels, config.width, config.multipliers, config.blocks)

    def forward(self, images: Tensor) -> TokenizerOutput:
        """One pass for training; in train mode it moves the codebook."""
        quantized = self.quantizer(self.encoder(images))
        return TokenizerOutput(self.decoder(quantized.latents), quantized.codes, quantized.loss)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes `(B, H / f, W / f)` int64 in [0, V) of images `(B, C, H, W)` in [-1, 1]. Call in eval mode."""
        return self.quantizer(self.encoder(images)).codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images `(B, C, h f, w f)` in [-1, 1] of codes `(B, h, w)`."""
        return self.decoder(self.quantizer.decode(codes)).clamp(-1, 1)

    def save(self, directory: Path, extra: dict[str, Any]) -> None:
        """Write config.json (with `extra`) and model.safetensors."""
        architecture = {key: value for key, value in asdict(self.config).items() if key not in ("train", "loss")}
        shape = {"image_size": self.image_size, "channels": self.channels}
        save_model(directory, self.state_dict(), architecture | shape | extra)

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read what `save` wrote, in eval mode. Raises UserError where it is missing, damaged or does not fit."""
        stored, state = read_model(directory)
        try:
            config = TokenizerConfig(
                downsample=stored["downsample"],
                width=stored["width"],
                multipliers=stored["multipliers"],
                blocks=stored["blocks"],
                quantizer=QuantizerConfig(**stored["quantizer"]),
            )
            tokenizer = cls(config, stored["image_size"], stored["channels"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{directory / 'config.json'} is not a tokenizer's ({error}): train it again") from error
        load_weights(tokenizer, state, directory)
        return tokenizer.eval()
