"""Our tokenizer and diffusers' VQModel, built to the same size and called in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig

LAYERS = 2  # residual blocks a level; VQModel always has two in the middle, ours has the same number everywhere
CODES, CODE_DIM = 1024, 8
NORM_GROUPS = 32  # of VQModel and of our architecture `amused`


@dataclass(frozen=True)
class Shape:
    """Images of `size` x `size` pixels and `widths` channels a level, full resolution first."""

    size: int
    widths: tuple[int, ...]

    @property
    def downsample(self) -> int:
        """Pixels a code along each side."""
        return 1 << (len(self.widths) - 1)


def shape_of(size: int, width: int) -> Shape:
    """The shape for images of `size` pixels: f4 below 128 pixels, f16 from there on; `width` channels at full size."""
    multipliers = (1, 2, 4) if size < 128 else (1, 1, 2, 2, 4)
    return Shape(size, tuple(width * multiplier for multiplier in multipliers))


@dataclass(frozen=True)
class Model:
    """A network and the calls that are timed.

    Attributes:
        encode: images `(B, 3, S, S)` to codes.
        decode: these codes to images in [-1, 1].
        forward: images to their reconstruction and the weighted loss of the quantizer, a scalar.
    """

    network: nn.Module
    quantizer: nn.Module
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]

    def parameter_count(self) -> int:
        """Number of parameters without the quantizer: VQModel learns its codebook by gradients, ours by moving averages."""
        of_quantizer = {id(parameter) for parameter in self.quantizer.parameters()}
        return sum(parameter.numel() for parameter in self.network.parameters() if id(parameter) not in of_quantizer)


def build_ours(architecture: str, shape: Shape) -> Model:
    """Our tokenizer as in training, without k-means, which runs once in a training."""
    config = TokenizerConfig(
        architecture=architecture,
        downsample=shape.downsample,
        width=shape.widths[0],
        multipliers=[width // shape.widths[0] for width in shape.widths],
        blocks=LAYERS,
        quantizer=QuantizerConfig(codebook_size=CODES, codebook_dim=CODE_DIM, kmeans_init=False),
    )
    network = Tokenizer(config, shape.size, channels=3)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        output = network(images)
        return output.reconstruction, torch.stack(list(output.quantizer_losses.values())).sum()

    return Model(network, network.quantizer, network.encode, network.decode, forward)


def build_diffusers(shape: Shape) -> Model:
    """VQModel, called as diffusers' aMUSEd pipeline calls it. Raises UserError where diffusers is not installed."""
    try:
        from diffusers import VQModel  # noqa: PLC0415 (an optional package)
    except ImportError as error:
        raise UserError("this benchmark needs diffusers: pip install diffusers") from error
    network: Any = VQModel(  # type: ignore[no-untyped-call]
        block_out_channels=shape.widths,
        down_block_types=("DownEncoderBlock2D",) * len(shape.widths),
        up_block_types=("UpDecoderBlock2D",) * len(shape.widths),
        layers_per_block=LAYERS,
        latent_channels=CODE_DIM,
        sample_size=shape.size,
        num_vq_embeddings=CODES,
        norm_num_groups=NORM_GROUPS,
        vq_embed_dim=CODE_DIM,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    side = shape.size // shape.downsample

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        codes: Tensor = network.quantize(network.encode(images).latents)[2][2]
        return codes.view(len(images), side, side)

    @torch.no_grad()
    def decode(codes: Tensor) -> Tensor:
        images: Tensor = network.decode(codes, force_not_quantize=True, shape=(*codes.shape, CODE_DIM)).sample
        return images.float().clamp(-1, 1)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        output = network(images)
        return output.sample, output.commit_loss

    return Model(network, network.quantize, encode, decode, forward)
