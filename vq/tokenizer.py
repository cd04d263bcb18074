"""Tokenizer: pictures to a grid of codes and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import TrainConfig, stored_config
from common.errors import UserError
from common.model_dir import load_weights, model_directory, read_model, save_model
from vq.autoencoder import ARCHITECTURES, Decoder, Encoder
from vq.discriminator import DiscriminatorConfig
from vq.loss import LossConfig
from vq.quantizer import QuantizerConfig, build_quantizer
from vq.tiling import decode_tiles, encode_tiles


@dataclass
class TokenizerConfig:
    """`tokenizer.*` of a run's configuration."""

    architecture: str = "vqgan+"  # vqgan+ | taming | amused | maskgit, see vq/autoencoder.py
    downsample: int = 4  # f: pixels a code, along each side
    width: int = 32  # channels at full size
    multipliers: list[int] = field(default_factory=lambda: [1, 2, 4])  # of the width, one a level, full size first
    blocks: int = 2  # residual blocks a level; taming and amused have one more in the decoder
    latent_channels: int = 0  # taming, amused: between the 3 x 3 and the 1 x 1 convolutions; 0: as many as a code's
    gradient_checkpointing: bool = False  # keep a level's input only and compute it again for the gradient
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"tokenizer.architecture must be one of {', '.join(ARCHITECTURES)}, got '{self.architecture}'"
            )
        if self.downsample < 2 or math.log2(self.downsample) % 1:
            raise ValueError(f"tokenizer.downsample must be 2, 4, 8, ..., got {self.downsample}")
        if len(self.multipliers) != math.log2(self.downsample) + 1:
            raise ValueError(
                f"tokenizer.multipliers needs {int(math.log2(self.downsample)) + 1} numbers for downsample "
                f"{self.downsample}, got {self.multipliers}"
            )
        if self.width < 1 or self.blocks < 1 or min(self.multipliers) < 1 or self.latent_channels < 0:
            raise ValueError("tokenizer.width, blocks and multipliers must be at least 1, latent_channels at least 0")
        style = ARCHITECTURES[self.architecture]
        if self.latent_channels and not style.projections:
            raise ValueError(
                f"tokenizer.latent_channels is for taming and amused: leave it out with {self.architecture}"
            )
        if style.norm_groups and self.width % style.norm_groups:
            raise ValueError(
                f"tokenizer.width must be a multiple of {style.norm_groups} with {self.architecture}, got {self.width}"
            )


# What config.json holds of a TokenizerConfig: what loading needs.
ARCHITECTURE_KEYS = (
    "architecture", "downsample", "width", "multipliers", "blocks", "latent_channels", "quantizer",
)  # fmt: skip


@dataclass
class ImageShape:
    """Side in pixels and number of channels of the training images."""

    image_size: int
    channels: int


class TokenizerOutput(NamedTuple):
    """reconstruction `(B, C, H, W)`, not clamped; codes `(B, h, w)`; quantizer_losses: weighted scalars by name."""

    reconstruction: Tensor
    codes: Tensor
    quantizer_losses: dict[str, Tensor]


class Tokenizer(nn.Module):
    """VQ-GAN generator (arXiv 2012.09841): encoder, quantizer, decoder.

    Args:
        config: the architecture; `image_size` and `channels` are those of the training pictures.
        sync_codebook: whether processes share one codebook; True exactly where there are several.

    Attributes:
        downsample: pixels a code along each side, f.
        codebook_size: number of codes K.
        groups: sub-codes a position, see `vq.quantizer.Quantizer`.

    Raises:
        UserError: an image size that is no multiple of f.
    """

    def __init__(self, config: TokenizerConfig, image_size: int, channels: int, sync_codebook: bool = False) -> None:
        super().__init__()
        if image_size % config.downsample:
            raise UserError(
                f"data.image_size {image_size} is not a multiple of tokenizer.downsample {config.downsample}: "
                f"set data.image_size={-(-image_size // config.downsample) * config.downsample}"
            )
        self.config, self.image_size, self.channels = config, image_size, channels
        self.quantizer = build_quantizer(config.quantizer, sync_codebook)
        self.downsample, self.codebook_size = config.downsample, self.quantizer.codebook_size
        self.groups = self.quantizer.groups
        widths = [config.width * multiplier for multiplier in config.multipliers]
        style, dim = ARCHITECTURES[config.architecture], self.quantizer.dim
        latent_channels = config.latent_channels or dim
        self.encoder = Encoder(channels, widths, config.blocks, latent_channels, dim, style)
        self.decoder = Decoder(channels, widths, config.blocks, latent_channels, dim, style)
        self.encoder.recompute = self.decoder.recompute = config.gradient_checkpointing
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> TokenizerOutput:
        """One pass for training; in train mode it moves the codebook."""
        quantized = self.quantizer(self.encoder(images.contiguous(memory_format=torch.channels_last)))
        return TokenizerOutput(self.decoder(quantized.latents), quantized.codes, quantized.losses)

    @torch.no_grad()
    def encode(self, images: Tensor, tile: int = 0, overlap: int = 64) -> Tensor:
        """Codes `(B, ceil(H / f), ceil(W / f))` int64 in [0, K) of images `(B, C, H, W)` in [-1, 1]. Call in eval mode.

        Sides that f does not divide are extended by their last row and column.

        Args:
            tile: side in pixels of the tiles that are encoded one after the other; 0: the whole picture at once.
            overlap: pixels that a tile sees beyond its own on every side.

        Raises:
            UserError: other channels than the tokenizer's, smaller than f, not finite, or tiles that do not fit.
        """
        images = self._checked(images)
        if tile:
            return encode_tiles(self._encode, images, self.downsample, tile, overlap)
        return self._encode(images)

    @torch.no_grad()
    def decode(self, codes: Tensor, size: tuple[int, int] | None = None, tile: int = 0, overlap: int = 64) -> Tensor:
        """Images `(B, C, h f, w f)` in [-1, 1] of codes `(B, h, w)`; `size` (H, W) crops what `encode` had added.

        Args:
            tile, overlap: as in `encode`; where decoded tiles overlap, they are blended.

        Raises:
            UserError: codes of another shape or outside [0, K).
        """
        if (
            codes.ndim != 3
            or codes.is_floating_point()
            or not bool(((codes >= 0) & (codes < self.codebook_size)).all())
        ):
            raise UserError(
                f"codes must be integers (B, h, w) in [0, {self.codebook_size}), got {codes.dtype} {tuple(codes.shape)} "
                f"from {codes.min().item()} to {codes.max().item()}: are they another tokenizer's?"
            )
        images = decode_tiles(self._decode, codes, self.downsample, tile, overlap) if tile else self._decode(codes)
        return images if size is None else images[..., : size[0], : size[1]]

    def reconstruct(self, images: Tensor, tile: int = 0, overlap: int = 64) -> Tensor:
        """Images `(B, C, H, W)`, any size of at least f, through their codes and back."""
        size = (images.shape[-2], images.shape[-1])
        return self.decode(self.encode(images, tile, overlap), size, tile, overlap)

    def _encode(self, images: Tensor) -> Tensor:
        return self.quantizer(self.encoder(images.contiguous(memory_format=torch.channels_last))).codes

    def _decode(self, codes: Tensor) -> Tensor:
        latents = self.quantizer.decode(codes).contiguous(memory_format=torch.channels_last)
        return self.decoder(latents).float().clamp(-1, 1)

    def _checked(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise UserError(
                f"this tokenizer takes pictures (B, {self.channels}, H, W), got {tuple(images.shape)}: "
                "convert them to its number of channels"
            )
        if not images.is_floating_point():
            raise UserError(
                f"pictures must be floats in [-1, 1], got {images.dtype}: convert them, such as x / 127.5 - 1"
            )
        height, width = images.shape[-2:]
        if min(height, width) < self.downsample:
            raise UserError(
                f"a picture of {width} x {height} pixels is smaller than one code ({self.downsample} x "
                f"{self.downsample}): give a larger one"
            )
        if not bool(torch.isfinite(images).all()):
            raise UserError("the pictures hold values that are not finite: give numbers in [-1, 1]")
        extra = (-width % self.downsample, -height % self.downsample)
        return F.pad(images, (0, extra[0], 0, extra[1]), mode="replicate") if any(extra) else images

    def save(self, directory: Path, provenance: Mapping[str, object]) -> None:
        """Write config.json (with `provenance`) and model.safetensors."""
        architecture = {key: value for key, value in asdict(self.config).items() if key in ARCHITECTURE_KEYS}
        shape = {"image_size": self.image_size, "channels": self.channels}
        save_model(directory, self.state_dict(), {**architecture, **shape, **provenance})

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read what `save` wrote, in eval mode. Raises UserError where it is missing, damaged or does not fit."""
        stored, state = read_model(directory)
        source = directory / "config.json"
        config = stored_config(TokenizerConfig, stored, ARCHITECTURE_KEYS, source)
        shape = stored_config(ImageShape, stored, ("image_size", "channels"), source)
        tokenizer = cls(config, shape.image_size, shape.channels)
        load_weights(tokenizer, state, directory)
        return tokenizer.eval()

    @classmethod
    def from_pretrained(cls, model: str | Path, device: str | torch.device = "cpu") -> Tokenizer:
        """The tokenizer of a model directory, or of "hf:owner/name" on the Hugging Face Hub, in eval mode.

        Other projects' checkpoints are converted first, by `vq.pretrained`. Raises UserError where there is none.
        """
        directory = model_directory(model, parts=["tokenizer"])
        if (directory / "tokenizer").is_dir() or not (directory / "config.json").is_file():
            directory = directory / "tokenizer"
        return cls.load(directory).to(device)
