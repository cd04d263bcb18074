"""PatchGAN: judges overlapping patches, not whole pictures (pix2pix, arXiv 1611.07004)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vq.autoencoder import group_norm


@dataclass
class DiscriminatorConfig:
    """`tokenizer.discriminator.*`."""

    width: int = 32
    layers: int = 2  # strided layers; each doubles the patch
    learning_rate_ratio: float = 1.0  # to tokenizer.train.learning_rate


class PatchDiscriminator(nn.Module):
    """Pictures `(B, C, H, W)` to one logit a patch `(B, 1, H', W')`. Group norm: no running state, nothing to synchronise."""

    def __init__(self, config: DiscriminatorConfig, channels: int) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(config.layers - 1):
            layers += [nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), group_norm(2 * width), nn.LeakyReLU(0.2)]
            width *= 2
        layers += [nn.Conv2d(width, width, 3, padding=1), group_norm(width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
