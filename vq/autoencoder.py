"""Convolutional encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with at most 16 groups of at least 4 channels."""
    groups = next(g for g in (16, 8, 4, 2, 1) if channels % g == 0 and channels // g >= min(4, channels))
    return nn.GroupNorm(groups, channels)


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions and a skip: `(B, C_in, H, W) -> (B, C_out, H, W)`."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(channels_in), nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2, self.conv2 = group_norm(channels_out), nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Encoder(nn.Module):
    """Pictures `(B, C, H, W)` to latents `(B, width * multipliers[-1], H / f, W / f)`, f = 2 ** (levels - 1)."""

    def __init__(self, channels: int, width: int, multipliers: Sequence[int], blocks: int) -> None:
        super().__init__()
        widths = [width * m for m in multipliers]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        current = widths[0]
        for level, wanted in enumerate(widths):
            if level > 0:
                layers.append(nn.Conv2d(current, wanted, 4, stride=2, padding=1))
                current = wanted
            layers += [ResBlock(current, current) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, group_norm(current), nn.SiLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Decoder(nn.Module):
    """The way back: latents to pictures. `last_layer` is what the adaptive adversarial weight looks at."""

    def __init__(self, channels: int, width: int, multipliers: Sequence[int], blocks: int) -> None:
        super().__init__()
        widths = [width * m for m in reversed(multipliers)]
        layers: list[nn.Module] = []
        for level, current in enumerate(widths):
            layers += [ResBlock(current, current) for _ in range(blocks)]
            if level + 1 < len(widths):
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(current, widths[level + 1], 3, padding=1)]
        self.layers = nn.Sequential(*layers, group_norm(widths[-1]), nn.SiLU())
        self.last_layer = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        return self.last_layer(self.layers(latents))
