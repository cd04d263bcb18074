"""Convolutional encoder and decoder, with the architectures of VQGAN+, taming-transformers, aMUSEd and MaskGIT.

Shapes: images (B, C, H, W) in [-1, 1], latents (B, D, H / f, W / f), f = 2 ** (levels - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Architecture:
    """The differences between published autoencoders.

    Attributes:
        attention: self-attention after every block of the lowest resolution, and between the two middle blocks.
        middle_blocks: residual blocks in the middle; 0 takes the number of blocks of a level.
        decoder_extra_blocks: additional residual blocks in each level of the decoder.
        downsample: conv (4 x 4, stride 2) | padded_conv (3 x 3, stride 2, padded right and below) | pool (mean of 2 x 2).
        bias: whether the first convolution and the convolutions in residual blocks have a bias.
        shortcut_on_branch: whether the 1 x 1 shortcut of a block that changes the number of channels reads the output of
            the block's convolutions. False: it reads the block's input.
        projections: 1 x 1 convolutions before and after the quantizer (quant_conv, post_quant_conv).
        norm_groups: groups of group normalisation; 0 takes at most 32 groups of at least 4 channels.
        unit_range: whether the network computes with images in [0, 1]. Encoder and decoder convert: callers always use
            [-1, 1]. The range matters for published weights, because convolutions pad with zeros: zero is grey in
            [-1, 1] and black in [0, 1].
    """

    attention: bool = False
    middle_blocks: int = 0
    decoder_extra_blocks: int = 0
    downsample: str = "conv"
    bias: bool = True
    shortcut_on_branch: bool = False
    projections: bool = False
    norm_groups: int = 0
    unit_range: bool = False


ConvOutPadding = Literal["replicate", "zeros"]
CONV_OUT_PADDINGS: tuple[ConvOutPadding, ...] = get_args(ConvOutPadding)

ARCHITECTURES = {
    # convolutions only, encoder and decoder of the same depth (VQGAN+ of MaskBit, arXiv 2409.16211)
    "vqgan+": Architecture(),
    # VQGAN (arXiv 2012.09841); LlamaGen (arXiv 2406.06525) has the same network with other tensor names
    "taming": Architecture(
        attention=True,
        middle_blocks=2,
        decoder_extra_blocks=1,
        downsample="padded_conv",
        projections=True,
        norm_groups=32,
    ),
    # diffusers' VQModel with the configuration of aMUSEd (arXiv 2401.01808): taming without attention
    "amused": Architecture(
        middle_blocks=2,
        decoder_extra_blocks=1,
        downsample="padded_conv",
        projections=True,
        norm_groups=32,
        unit_range=True,
    ),
    # the VQGAN of MaskGIT (arXiv 2202.04200) as published by 1d-tokenizer
    "maskgit": Architecture(
        downsample="pool",
        bias=False,
        shortcut_on_branch=True,
        norm_groups=32,
        unit_range=True,
    ),
}


class GroupNorm(nn.GroupNorm):
    """Group normalisation that converts channels-last tensors in half precision on a CPU, and converts the result back.

    PyTorch's own backward pass takes up to eleven times as long for such tensors (docs/results.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        """The normalised tensor, in the shape of `x` `(B, C, H, W)`."""
        if x.device.type == "cpu" and x.dtype != torch.float32 and x.requires_grad:
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        return super().forward(x)


def group_norm(channels: int, groups: int = 0) -> GroupNorm:
    """Group normalisation with `groups` groups; 0 takes at most 32 groups of at least 4 channels.

    Raises:
        ValueError: `channels` is not a multiple of `groups`.
    """
    choices = (groups,) if groups else (32, 16, 8, 4, 2, 1)
    chosen = next((g for g in choices if channels % g == 0 and (groups or channels // g >= min(4, channels))), None)
    if chosen is None:
        raise ValueError(
            f"{channels} channels do not divide into {groups} groups: make the width a multiple of {groups}"
        )
    return GroupNorm(chosen, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions with a residual connection."""

    def __init__(self, channels_in: int, channels_out: int, architecture: Architecture) -> None:
        super().__init__()
        self.shortcut_on_branch = architecture.shortcut_on_branch
        self.norm1 = group_norm(channels_in, architecture.norm_groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=architecture.bias)
        self.norm2 = group_norm(channels_out, architecture.norm_groups)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=architecture.bias)
        self.skip: nn.Conv2d | None = None
        if channels_in != channels_out:
            self.skip = nn.Conv2d(
                channels_out if self.shortcut_on_branch else channels_in, channels_out, 1, bias=architecture.bias
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features `(B, C_in, H, W)` to `(B, C_out, H, W)`."""
        h: Tensor = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        if self.skip is not None:
            x = self.skip(h if self.shortcut_on_branch else x)
        return x + h


class Attention(nn.Module):
    """Self-attention with one head over all positions, and a residual connection."""

    def __init__(self, channels: int, architecture: Architecture) -> None:
        super().__init__()
        self.norm = group_norm(channels, architecture.norm_groups)
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Features `(B, C, H, W)` to features of the same shape."""
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))  # (B, HW, C)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).view_as(x)
        residual: Tensor = self.out(h)
        return x + residual


class Level(nn.Module):
    """Residual blocks at one resolution, then `resample`. With `attention` each block is followed by an Attention."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        blocks: int,
        architecture: Architecture,
        attention: bool,
        resample: nn.Module,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResBlock(channels_in if i == 0 else channels_out, channels_out, architecture) for i in range(blocks)
        )
        self.attentions = nn.ModuleList(
            Attention(channels_out, architecture) for _ in range(blocks if attention else 0)
        )
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """Features `(B, C_in, H, W)` to `(B, C_out, H', W')`; `resample` decides on H' and W'."""
        for index, block in enumerate(self.blocks):
            x = block(x)
            if self.attentions:
                x = self.attentions[index](x)
        resampled: Tensor = self.resample(x)
        return resampled


class PaddedConv(nn.Conv2d):
    """3 x 3 convolution with stride 2 and one pixel of padding right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Features `(B, C, H, W)` to `(B, C, H / 2, W / 2)`."""
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def downsample(channels: int, kind: str) -> nn.Module:
    """A layer that halves height and width; `kind` as in `Architecture.downsample`."""
    if kind == "pool":
        return nn.AvgPool2d(2)
    return PaddedConv(channels) if kind == "padded_conv" else nn.Conv2d(channels, channels, 4, stride=2, padding=1)


def upsample(channels: int) -> nn.Module:
    """A layer that doubles height and width."""
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels, 3, padding=1))


def middle(channels: int, blocks: int, architecture: Architecture) -> nn.Sequential:
    """The residual blocks at the lowest resolution, with attention between two of them if the architecture has it."""
    if architecture.attention:
        return nn.Sequential(
            ResBlock(channels, channels, architecture),
            Attention(channels, architecture),
            ResBlock(channels, channels, architecture),
        )
    return nn.Sequential(
        *(ResBlock(channels, channels, architecture) for _ in range(architecture.middle_blocks or blocks))
    )


def run_layers(layers: Sequence[nn.Module], x: Tensor, recompute: bool) -> Tensor:
    """Apply `layers` in turn; `recompute` turns on gradient checkpointing (arXiv 1604.06174) for each layer."""
    for layer in layers:
        x = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
    return x


class Encoder(nn.Module):
    """Convolutional network from images to latents.

    Args:
        channels: channels of the images.
        widths: channels of each level, the level at full resolution first.
        blocks: residual blocks in each level.
        latent_channels: output channels of the last 3 x 3 convolution, before the 1 x 1 projection. Without projections
            it must equal `dim`.
        dim: channels of the latents, as the quantizer takes them.

    Attributes:
        recompute: whether training uses gradient checkpointing.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        blocks: int,
        latent_channels: int,
        dim: int,
        architecture: Architecture,
    ) -> None:
        super().__init__()
        self.recompute, self.unit_range = False, architecture.unit_range
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1, bias=architecture.bias)
        self.levels = nn.ModuleList()
        current = widths[0]
        for index, width in enumerate(widths):
            last = index + 1 == len(widths)
            resample = nn.Identity() if last else downsample(width, architecture.downsample)
            self.levels.append(Level(current, width, blocks, architecture, last and architecture.attention, resample))
            current = width
        self.middle = middle(current, blocks, architecture)
        self.norm_out = group_norm(current, architecture.norm_groups)
        kernel = 3 if architecture.projections else 1
        self.conv_out = nn.Conv2d(current, latent_channels, kernel, padding=kernel // 2)
        self.project = nn.Conv2d(latent_channels, dim, 1) if architecture.projections else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [-1, 1] to latents `(B, dim, H / f, W / f)`."""
        if self.unit_range:
            images = (images + 1) / 2
        h = run_layers([self.conv_in, *self.levels, self.middle], images, self.recompute and self.training)
        latents: Tensor = self.project(self.conv_out(F.silu(self.norm_out(h))))
        return latents


class Decoder(nn.Module):
    """Convolutional network from latents to images; arguments and attributes as in `Encoder`.

    Args:
        conv_out_padding: what the last convolution reads outside the image, one of CONV_OUT_PADDINGS. All convolutions
            before it pad with zeros; later layers learn to correct what that changes at the border. Nothing corrects
            the last one: with zeros, it gave a corner pixel four of nine terms and turned white corners grey
            (docs/log.md). Published networks have zeros there.

    The adaptive adversarial weight (`vq.loss.adaptive_weight`) compares gradients at the weight of `conv_out`.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        blocks: int,
        latent_channels: int,
        dim: int,
        architecture: Architecture,
        conv_out_padding: ConvOutPadding = "zeros",
    ) -> None:
        super().__init__()
        self.recompute, self.unit_range = False, architecture.unit_range
        current = widths[-1]
        self.project = nn.Conv2d(dim, latent_channels, 1) if architecture.projections else nn.Identity()
        self.conv_in = nn.Conv2d(latent_channels, current, 3, padding=1)
        self.middle = middle(current, blocks, architecture)
        self.levels = nn.ModuleList()
        for index, width in enumerate(reversed(widths)):
            resample = nn.Identity() if index + 1 == len(widths) else upsample(width)
            depth = blocks + architecture.decoder_extra_blocks
            self.levels.append(
                Level(current, width, depth, architecture, index == 0 and architecture.attention, resample)
            )
            current = width
        self.norm_out = group_norm(current, architecture.norm_groups)
        self.conv_out = nn.Conv2d(current, channels, 3, padding=1, padding_mode=conv_out_padding)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents `(B, dim, h, w)` to images `(B, C, h f, w f)`, about in [-1, 1] but not clamped."""
        h = self.conv_in(self.project(latents))
        h = run_layers([self.middle, *self.levels], h, self.recompute and self.training)
        images: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return images * 2 - 1 if self.unit_range else images
