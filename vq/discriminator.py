"""Discriminators that judge overlapping patches, not whole pictures: `(B, C, H, W)` to logits `(B, 1, H', W')`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vq.autoencoder import group_norm

KINDS = ("patchgan", "blurpool")


@dataclass
class DiscriminatorConfig:
    """`tokenizer.discriminator.*`."""

    kind: str = "patchgan"  # patchgan (pix2pix, taming) | blurpool (MaskBit)
    width: int = 32
    layers: int = 2  # that halve the picture; each doubles the patch
    learning_rate_ratio: float = 1.0  # to tokenizer.train.learning_rate

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"tokenizer.discriminator.kind must be one of {', '.join(KINDS)}, got '{self.kind}'")
        if min(self.width, self.layers) < 1 or not self.learning_rate_ratio > 0:
            raise ValueError("tokenizer.discriminator.width and layers must be at least 1, learning_rate_ratio above 0")


class PatchDiscriminator(nn.Module):
    """PatchGAN: strided 4 x 4 convolutions (arXiv 1611.07004). Group norm: no running state, nothing to synchronise."""

    def __init__(self, config: DiscriminatorConfig, channels: int) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(config.layers - 1):
            wider = min(2 * width, 8 * config.width)
            layers += [nn.Conv2d(width, wider, 4, stride=2, padding=1), group_norm(wider), nn.LeakyReLU(0.2)]
            width = wider
        layers += [nn.Conv2d(width, width, 3, padding=1), group_norm(width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class BlurPool(nn.Module):
    """Halves both sides after a binomial 4 x 4 blur, so that moving the picture by a pixel changes little (arXiv 1904.11486)."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(row, row).expand(channels, 1, 4, 4).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, self.kernel.to(x.dtype), stride=2, groups=x.shape[1])


class BlurPoolDiscriminator(nn.Module):
    """Unstrided convolutions, blurred down, with group norm: the discriminator of VQGAN+ (arXiv 2409.16211, section 3)."""

    def __init__(self, config: DiscriminatorConfig, channels: int) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 5, padding=2), nn.LeakyReLU(0.1)]
        for _ in range(config.layers):
            wider = min(2 * width, 8 * config.width)
            layers += [nn.Conv2d(width, wider, 3, padding=1), BlurPool(wider), group_norm(wider), nn.LeakyReLU(0.1)]
            width = wider
        layers += [nn.Conv2d(width, width, 1), nn.LeakyReLU(0.1), nn.Conv2d(width, 1, 5, padding=2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def build_discriminator(config: DiscriminatorConfig, channels: int) -> nn.Module:
    """The discriminator that `config` names."""
    kind = PatchDiscriminator if config.kind == "patchgan" else BlurPoolDiscriminator
    return kind(config, channels)
