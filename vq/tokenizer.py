"""The tokenizer: images to code grids and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import TrainConfig
from common.errors import UserError
from common.model_dir import CONFIG_FILE, load_model, model_directory, read_config, save_model
from common.ranges import check_range
from common.stored_config import stored_config
from vq.autoencoder import ARCHITECTURES, CONV_OUT_PADDINGS, ConvOutPadding, Decoder, Encoder
from vq.discriminator import DiscriminatorConfig
from vq.loss import LossConfig
from vq.quantizer import Quantized, QuantizerConfig, build_quantizer
from vq.tiling import decode_tiles, encode_tiles

MAX_IMAGE_SIZE = 16_384  # pixels a side
MAX_WIDTH = 65_536  # channels of a level
MAX_BLOCKS = 100
MAX_DOWNSAMPLE = 1024


@dataclass
class TokenizerConfig:
    """`tokenizer.*` of a run's configuration."""

    architecture: str = "vqgan+"  # vqgan+ | taming | amused | maskgit, see vq/autoencoder.py
    downsample: int = 4  # f: a code stands for f x f pixels; a power of two
    width: int = 32  # channels at full resolution
    # channels of each level / width, the level at full resolution first; downsample 2 ** n needs n + 1 levels
    multipliers: list[int] = field(default_factory=lambda: [1, 2, 4])
    blocks: int = 2  # residual blocks in each level; taming and amused have one more in the decoder
    latent_channels: int = 0  # taming, amused: between the 3 x 3 and the 1 x 1 convolutions; 0: those of a code
    # replicate | zeros: what the decoder's last convolution reads outside the image; zeros makes white corners grey
    conv_out_padding: str = "replicate"
    # save memory: keep the input of each level alone, and compute its activations a second time in the backward pass
    gradient_checkpointing: bool = False
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"tokenizer.architecture must be one of {', '.join(ARCHITECTURES)}, got '{self.architecture}'"
            )
        if self.conv_out_padding not in CONV_OUT_PADDINGS:
            raise ValueError(
                f"tokenizer.conv_out_padding must be {' or '.join(CONV_OUT_PADDINGS)}, got '{self.conv_out_padding}'"
            )
        check_range("tokenizer.downsample", self.downsample, 2, MAX_DOWNSAMPLE)
        if self.downsample.bit_count() != 1:
            raise ValueError(f"tokenizer.downsample must be 2, 4, 8, ..., got {self.downsample}")
        levels = int(math.log2(self.downsample)) + 1
        if not self.multipliers or len(self.multipliers) != levels:
            fitting = [*self.multipliers, *(self.multipliers or [1])[-1:] * levels][:levels]
            value = f"[{','.join(map(str, fitting))}]"  # without spaces, which a shell would split
            raise ValueError(
                f"tokenizer.multipliers needs {levels} numbers for downsample {self.downsample}, got {self.multipliers}: "
                f"set tokenizer.multipliers={value}"
            )
        check_range("tokenizer.width", self.width, 1, MAX_WIDTH)
        for multiplier in self.multipliers:
            check_range("tokenizer.width x each of tokenizer.multipliers", self.width * multiplier, 1, MAX_WIDTH)
        check_range("tokenizer.blocks", self.blocks, 1, MAX_BLOCKS)
        check_range("tokenizer.latent_channels", self.latent_channels, 0, MAX_WIDTH)
        architecture = ARCHITECTURES[self.architecture]
        if self.latent_channels and not architecture.projections:
            raise ValueError(
                f"tokenizer.latent_channels is for taming and amused: set tokenizer.latent_channels=0 with {self.architecture}"
            )
        if architecture.norm_groups and self.width % architecture.norm_groups:
            raise ValueError(
                f"tokenizer.width must be a multiple of {architecture.norm_groups} with {self.architecture}, "
                f"got {self.width}: set tokenizer.width={-(-self.width // architecture.norm_groups) * architecture.norm_groups}"
            )


# The keys of a TokenizerConfig that config.json stores: those that loading needs.
ARCHITECTURE_KEYS = (
    "architecture", "downsample", "width", "multipliers", "blocks", "latent_channels", "conv_out_padding", "quantizer",
)  # fmt: skip
# Keys that config.json of older models lacks, with the values that those models were trained with.
VALUES_OF_OLDER_MODELS = {"conv_out_padding": "zeros"}


@dataclass
class ImageShape:
    """Side in pixels and number of channels of the training images, as config.json stores them."""

    image_size: int
    channels: int

    def __post_init__(self) -> None:
        """Raise ValueError for a shape that no training images have."""
        check_range("image_size", self.image_size, 1, MAX_IMAGE_SIZE)
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")


class TokenizerOutput(NamedTuple):
    """The result of a training pass.

    Attributes:
        reconstruction: images `(B, C, H, W)`, not clamped to [-1, 1].
        codes: `(B, h, w)` int64 in [0, K).
        quantizer_losses: weighted scalars by name.
    """

    reconstruction: Tensor
    codes: Tensor
    quantizer_losses: dict[str, Tensor]


class Tokenizer(nn.Module):
    """VQ-GAN generator (arXiv 2012.09841): encoder, quantizer, decoder.

    Args:
        config: the architecture.
        image_size: side of the training images in pixels. Other sizes can be encoded too.
        channels: channels of the images, 1 or 3.
        sync_codebook: whether processes keep one common codebook; True if several processes train one model.

    Attributes:
        downsample: f, the side in pixels of the square that a code stands for.
        codebook_size: number of codes K.
        groups: sub-codes of a code, see `vq.quantizer.Quantizer`.

    Raises:
        UserError: `image_size` is not a multiple of f.
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
        architecture, dim = ARCHITECTURES[config.architecture], self.quantizer.dim
        latent_channels = config.latent_channels or dim
        self.encoder = Encoder(channels, widths, config.blocks, latent_channels, dim, architecture)
        padding = cast(ConvOutPadding, config.conv_out_padding)  # its __post_init__ has checked it
        self.decoder = Decoder(channels, widths, config.blocks, latent_channels, dim, architecture, padding)
        self.encoder.recompute = self.decoder.recompute = config.gradient_checkpointing
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> TokenizerOutput:
        """Reconstruct images `(B, C, H, W)` in [-1, 1], H and W multiples of f. In train mode this updates the codebook."""
        quantized = self.quantizer(self.encoder(images.contiguous(memory_format=torch.channels_last)))
        return TokenizerOutput(self.decoder(quantized.latents), quantized.codes, quantized.losses)

    @torch.no_grad()
    def encode(
        self, images: Tensor, tile: int = 0, overlap: int = 64, on_tile: Callable[[], object] | None = None
    ) -> Tensor:
        """Codes `(B, ceil(H / f), ceil(W / f))` int64 in [0, K) of images `(B, C, H, W)` in [-1, 1]. Call in eval mode.

        If a side is not a multiple of f, the last row or column is repeated until it is.

        Args:
            tile: side in pixels of tiles that are encoded one after the other; 0 encodes the whole image at once.
            overlap: margin in pixels that a tile is encoded with on each side.
            on_tile: called after each tile, for a progress bar.

        Raises:
            UserError: images with another number of channels, smaller than f, not float or not finite; a tile smaller
                than f, or a negative overlap.
        """
        images = self._padded(images)
        if tile:
            return encode_tiles(self._encode, images, self.downsample, tile, overlap, on_tile)
        return self._encode(images)

    @torch.no_grad()
    def decode(
        self,
        codes: Tensor,
        size: tuple[int, int] | None = None,
        tile: int = 0,
        overlap: int = 64,
        on_tile: Callable[[], object] | None = None,
    ) -> Tensor:
        """Images `(B, C, h f, w f)` in [-1, 1] of codes `(B, h, w)`. Call in eval mode.

        Args:
            size: (H, W) of the encoded images; crops the rows and columns that `encode` added.
            tile, overlap, on_tile: as in `encode`; overlapping parts of decoded tiles are blended.

        Raises:
            UserError: codes of another shape or type, or outside [0, K); tiles as in `encode`.
        """
        if (
            codes.ndim != 3
            or codes.is_floating_point()
            or not bool(((codes >= 0) & (codes < self.codebook_size)).all())
        ):
            raise UserError(
                f"codes must be integers (B, h, w) in [0, {self.codebook_size}), got {codes.dtype} {tuple(codes.shape)} "
                f"from {codes.min().item()} to {codes.max().item()}: use the tokenizer that made them"
            )
        images = (
            decode_tiles(self._decode, codes, self.downsample, tile, overlap, on_tile) if tile else self._decode(codes)
        )
        return images if size is None else images[..., : size[0], : size[1]]

    def reconstruct(
        self, images: Tensor, tile: int = 0, overlap: int = 64, on_tile: Callable[[], object] | None = None
    ) -> Tensor:
        """Encode images `(B, C, H, W)` in [-1, 1], H and W at least f, and decode their codes to the same size.

        Arguments and errors are those of `encode`. Tiles are encoded first, and then as many decoded.
        """
        size = (images.shape[-2], images.shape[-1])
        return self.decode(self.encode(images, tile, overlap, on_tile), size, tile, overlap, on_tile)

    def _encode(self, images: Tensor) -> Tensor:
        latents = self.encoder(images.contiguous(memory_format=torch.channels_last))
        _check_finite(latents, "latents")
        quantized: Quantized = self.quantizer(latents)
        return quantized.codes

    def _decode(self, codes: Tensor) -> Tensor:
        latents = self.quantizer.decode(codes).contiguous(memory_format=torch.channels_last)
        images: Tensor = self.decoder(latents).float()
        _check_finite(images, "decoded images")
        return images.clamp(-1, 1)

    def _padded(self, images: Tensor) -> Tensor:
        """The images, checked and padded to multiples of f."""
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise UserError(
                f"this tokenizer takes images (B, {self.channels}, H, W), got {tuple(images.shape)}: "
                f"convert them to {self.channels} channel{'s' if self.channels > 1 else ''}"
            )
        if not images.is_floating_point():
            raise UserError(
                f"images must be floats in [-1, 1], got {images.dtype}: convert them, for uint8 by x / 127.5 - 1"
            )
        height, width = images.shape[-2:]
        if min(height, width) < self.downsample:
            raise UserError(
                f"an image of {width} x {height} pixels is smaller than one code ({self.downsample} x "
                f"{self.downsample}): give a larger one"
            )
        if not bool(torch.isfinite(images).all()):
            raise UserError("the images contain values that are not finite: give numbers in [-1, 1]")
        extra = (-width % self.downsample, -height % self.downsample)
        return F.pad(images, (0, extra[0], 0, extra[1]), mode="replicate") if any(extra) else images

    def save(self, directory: Path, provenance: Mapping[str, object]) -> None:
        """Write model.safetensors and config.json, which also holds `provenance`: facts that loading does not need."""
        architecture = {key: value for key, value in asdict(self.config).items() if key in ARCHITECTURE_KEYS}
        shape = {"image_size": self.image_size, "channels": self.channels}
        save_model(directory, self.state_dict(), {**architecture, **shape, **provenance})

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """The tokenizer that `save` wrote, in eval mode.

        Raises:
            UserError: files are missing or damaged, or the weights do not fit the configuration.
        """
        stored, source = read_config(directory), directory / CONFIG_FILE
        config = stored_config(TokenizerConfig, VALUES_OF_OLDER_MODELS | stored, ARCHITECTURE_KEYS, source)
        shape = stored_config(ImageShape, stored, ("image_size", "channels"), source)
        parts = {"blocks": ("encoder.levels.0.blocks", config.blocks)}
        return load_model(directory, lambda: cls(config, shape.image_size, shape.channels), parts)

    @classmethod
    def from_pretrained(cls, model: str | Path, device: str | torch.device = "cpu") -> Tokenizer:
        """The tokenizer of a model directory, or of "hf:owner/name" on the Hugging Face Hub, in eval mode.

        Checkpoints of other projects must be converted first, see `vq.pretrained`.

        Raises:
            UserError: there is no such directory or repository, or `load` refuses its files.
        """
        directory = model_directory(model, parts=["tokenizer"])
        if (directory / "tokenizer").is_dir() or not (directory / CONFIG_FILE).is_file():
            directory = directory / "tokenizer"
        return cls.load(directory).to(device)


def _check_finite(values: Tensor, what: str) -> None:
    """Raise UserError for activations that are not finite, which finite but very large weights cause."""
    if not values.sum().isfinite():
        raise UserError(f"the tokenizer's {what} are not finite: its weights are damaged; copy or train it again")
