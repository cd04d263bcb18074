"""Convolutional encoder and decoder, in the styles of VQGAN+, taming-transformers, aMUSEd and MaskGIT.

Shapes: images (B, C, H, W), latents (B, D, H / f, W / f), f = 2 ** (levels - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Architecture:
    """What tells one published autoencoder from another.

    Attributes:
        attention: self-attention after every block of the lowest resolution, and between the two middle blocks.
        middle_blocks: residual blocks in the middle; 0: as many as a level has.
        decoder_extra_blocks: residual blocks a level that the decoder has beyond the encoder.
        downsample: conv (4 x 4, stride 2) | padded_conv (3 x 3, stride 2, padded right and below) | pool (mean of 2 x 2).
        bias: of the first convolution and those in residual blocks.
        shortcut_on_branch: where channels change, the 1 x 1 shortcut reads the branch's output, not the block's input.
        projections: 1 x 1 convolutions on both sides of the quantizer (quant_conv, post_quant_conv).
        norm_groups: of group normalisation; 0: at most 32 of at least 4 channels.
        unit_range: pictures are in [0, 1] inside. Convolutions pad with zeros, grey in one range and black in the other,
            so published weights are only right in the range that they were trained in. Outside it is always [-1, 1].
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


ARCHITECTURES = {
    # convolution only, equal depth on both sides (VQGAN+ of MaskBit, arXiv 2409.16211)
    "vqgan+": Architecture(),
    # VQGAN (arXiv 2012.09841); LlamaGen (arXiv 2406.06525) has the same network under other names
    "taming": Architecture(True, 2, 1, "padded_conv", projections=True, norm_groups=32),
    # diffusers' VQModel as aMUSEd (arXiv 2401.01808) configures it: the same without attention
    "amused": Architecture(False, 2, 1, "padded_conv", projections=True, norm_groups=32, unit_range=True),
    # MaskGIT's VQGAN (arXiv 2202.04200) as 1d-tokenizer ships it
    "maskgit": Architecture(False, 0, 0, "pool", bias=False, shortcut_on_branch=True, norm_groups=32, unit_range=True),
}


class GroupNorm(nn.GroupNorm):
    """Group normalisation; on a CPU in half precision it leaves channels-last for the length of itself.

    PyTorch's backward pass of it takes there up to eleven times as long in channels-last (docs/results.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype != torch.float32 and x.requires_grad:
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        return super().forward(x)


def group_norm(channels: int, groups: int = 0) -> GroupNorm:
    """Group normalisation with `groups` groups; 0 takes at most 32 groups of at least 4 channels."""
    choices = (groups,) if groups else (32, 16, 8, 4, 2, 1)
    chosen = next((g for g in choices if channels % g == 0 and (groups or channels // g >= min(4, channels))), None)
    if chosen is None:
        raise ValueError(
            f"{channels} channels do not divide into {groups} groups: make the width a multiple of {groups}"
        )
    return GroupNorm(chosen, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions and a skip: `(B, C_in, H, W) -> (B, C_out, H, W)`."""

    def __init__(self, channels_in: int, channels_out: int, style: Architecture) -> None:
        super().__init__()
        self.on_branch = style.shortcut_on_branch
        self.norm1 = group_norm(channels_in, style.norm_groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=style.bias)
        self.norm2 = group_norm(channels_out, style.norm_groups)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=style.bias)
        self.skip: nn.Conv2d | None = None
        if channels_in != channels_out:
            self.skip = nn.Conv2d(channels_out if self.on_branch else channels_in, channels_out, 1, bias=style.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        if self.skip is not None:
            x = self.skip(h if self.on_branch else x)
        return x + h


class Attention(nn.Module):
    """One head of self-attention over all positions: `(B, C, H, W) -> (B, C, H, W)`."""

    def __init__(self, channels: int, style: Architecture) -> None:
        super().__init__()
        self.norm = group_norm(channels, style.norm_groups)
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))  # (B, HW, C)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).view_as(x)
        return x + self.out(h)


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where there is some, then `resample`."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        blocks: int,
        style: Architecture,
        attention: bool,
        resample: nn.Module,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResBlock(channels_in if i == 0 else channels_out, channels_out, style) for i in range(blocks)
        )
        self.attentions = nn.ModuleList(Attention(channels_out, style) for _ in range(blocks if attention else 0))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x)
            if self.attentions:
                x = self.attentions[index](x)
        return self.resample(x)


class PaddedConv(nn.Conv2d):
    """3 x 3 convolution of stride 2, padded by one pixel right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def downsample(channels: int, kind: str) -> nn.Module:
    """Halves both sides."""
    if kind == "pool":
        return nn.AvgPool2d(2)
    return PaddedConv(channels) if kind == "padded_conv" else nn.Conv2d(channels, channels, 4, stride=2, padding=1)


def upsample(channels: int) -> nn.Module:
    """Doubles both sides."""
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels, 3, padding=1))


def middle(channels: int, blocks: int, style: Architecture) -> nn.Sequential:
    """Residual blocks at the lowest resolution; with attention two, and attention between them."""
    if style.attention:
        return nn.Sequential(
            ResBlock(channels, channels, style), Attention(channels, style), ResBlock(channels, channels, style)
        )
    return nn.Sequential(*(ResBlock(channels, channels, style) for _ in range(style.middle_blocks or blocks)))


def run(layers: Sequence[nn.Module], x: Tensor, recompute: bool) -> Tensor:
    """Apply `layers` in turn; with `recompute` their activations are made again in the backward pass, not kept."""
    for layer in layers:
        x = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
    return x


class Encoder(nn.Module):
    """Pictures `(B, C, H, W)` to latents `(B, dim, H / f, W / f)`.

    Args:
        widths: channels of the levels, full size first.
        blocks: residual blocks a level.
        latent_channels: of the last convolution; where the style has projections, one of them follows.
        dim: channels that the quantizer wants.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: int, latent_channels: int, dim: int, style: Architecture
    ) -> None:
        super().__init__()
        self.recompute, self.unit_range = False, style.unit_range
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1, bias=style.bias)
        self.levels = nn.ModuleList()
        current = widths[0]
        for index, width in enumerate(widths):
            last = index + 1 == len(widths)
            resample = nn.Identity() if last else downsample(width, style.downsample)
            self.levels.append(Level(current, width, blocks, style, last and style.attention, resample))
            current = width
        self.middle = middle(current, blocks, style)
        self.norm_out = group_norm(current, style.norm_groups)
        kernel = 3 if style.projections else 1
        self.conv_out = nn.Conv2d(current, latent_channels, kernel, padding=kernel // 2)
        self.project = nn.Conv2d(latent_channels, dim, 1) if style.projections else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        if self.unit_range:
            images = (images + 1) / 2
        h = run([self.conv_in, *self.levels, self.middle], images, self.recompute and self.training)
        return self.project(self.conv_out(F.silu(self.norm_out(h))))


class Decoder(nn.Module):
    """The way back: latents to pictures. `conv_out` is what the adaptive adversarial weight looks at."""

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: int, latent_channels: int, dim: int, style: Architecture
    ) -> None:
        super().__init__()
        self.recompute, self.unit_range = False, style.unit_range
        current = widths[-1]
        self.project = nn.Conv2d(dim, latent_channels, 1) if style.projections else nn.Identity()
        self.conv_in = nn.Conv2d(latent_channels, current, 3, padding=1)
        self.middle = middle(current, blocks, style)
        self.levels = nn.ModuleList()
        for index, width in enumerate(reversed(widths)):
            resample = nn.Identity() if index + 1 == len(widths) else upsample(width)
            deep = blocks + style.decoder_extra_blocks
            self.levels.append(Level(current, width, deep, style, index == 0 and style.attention, resample))
            current = width
        self.norm_out = group_norm(current, style.norm_groups)
        self.conv_out = nn.Conv2d(current, channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        h = self.conv_in(self.project(latents))
        h = run([self.middle, *self.levels], h, self.recompute and self.training)
        images = self.conv_out(F.silu(self.norm_out(h)))
        return images * 2 - 1 if self.unit_range else images
