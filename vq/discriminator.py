"""Discriminators that classify overlapping patches of an image: images `(B, C, H, W)` to logits `(B, 1, H', W')`."""

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
    width: int = 32  # channels of the first layer
    layers: int = 2  # layers that halve height and width; each one about doubles the side of a patch
    learning_rate_ratio: float = 1.0  # learning rate of the discriminator / tokenizer.train.learning_rate

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"tokenizer.discriminator.kind must be one of {', '.join(KINDS)}, got '{self.kind}'")
        if min(self.width, self.layers) < 1 or not self.learning_rate_ratio > 0:
            raise ValueError("tokenizer.discriminator.width and layers must be at least 1, learning_rate_ratio above 0")


class PatchDiscriminator(nn.Module):
    """PatchGAN: 4 x 4 convolutions with stride 2 (arXiv 1611.07004).

    It has group norm where the paper has batch norm: group norm has no running statistics, which several processes would
    have to synchronise.
    """

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
        """Logits `(B, 1, H / 2 ** layers, W / 2 ** layers)` of images `(B, C, H, W)` in [-1, 1]; above 0 means real."""
        logits: Tensor = self.layers(images)
        return logits


class BlurPool(nn.Module):
    """Halves height and width after a blur, so that the result changes little if the input moves by one pixel.

    The blur is the binomial 4 x 4 kernel of arXiv 1904.11486.
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(row, row).expand(channels, 1, 4, 4).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features `(B, C, H, W)` to `(B, C, H / 2, W / 2)`."""
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, self.kernel.to(x.dtype), stride=2, groups=x.shape[1])


class BlurPoolDiscriminator(nn.Module):
    """Convolutions without stride, blur pooling and group norm: the discriminator of VQGAN+ (arXiv 2409.16211, section 3)."""

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
        """Logits `(B, 1, H / 2 ** layers, W / 2 ** layers)` of images `(B, C, H, W)` in [-1, 1]; above 0 means real."""
        logits: Tensor = self.layers(images)
        return logits


def build_discriminator(config: DiscriminatorConfig, channels: int) -> nn.Module:
    """The discriminator of `config` for images with `channels` channels."""
    kind = PatchDiscriminator if config.kind == "patchgan" else BlurPoolDiscriminator
    return kind(config, channels)
