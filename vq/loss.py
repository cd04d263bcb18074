"""Losses of the tokenizer: reconstruction, perceptual, adversarial with adaptive weight."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.metrics import EfficientNetFeatures

log = logging.getLogger(__name__)
PERCEPTUAL = ("auto", "lpips", "efficientnet", "none")


@dataclass
class LossConfig:
    """`tokenizer.loss.*`."""

    perceptual: str = "auto"  # auto: lpips where its backbone can be had, else efficientnet, else none
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.8  # times the adaptive weight (taming-transformers' value); 0 turns the GAN off
    adversarial_start: int = 1000  # step from which the discriminator takes part

    def __post_init__(self) -> None:
        if self.perceptual not in PERCEPTUAL:
            raise ValueError(
                f"tokenizer.loss.perceptual must be one of {', '.join(PERCEPTUAL)}, got '{self.perceptual}'"
            )


class EfficientNetDistance(nn.Module):
    """Mean squared distance of channel-normalised EfficientNet-lite0 features, in the manner of LPIPS (arXiv 1801.03924)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = EfficientNetFeatures()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances `(B,)` of images `(B, C, H, W)` in [-1, 1]."""
        total = first.new_zeros(len(first), dtype=torch.float32)
        with torch.no_grad():
            wanted = self.features.stages(second)
        for a, b in zip(self.features.stages(first), wanted, strict=True):
            # eps inside: features that are all zero would give a NaN gradient
            difference = F.normalize(a, dim=1, eps=1e-3) - F.normalize(b, dim=1, eps=1e-3)
            total = total + difference.square().sum(1).flatten(1).mean(1)
        return total


class LPIPSDistance(nn.Module):
    """LPIPS with its VGG-16 backbone (arXiv 1801.03924), in float32, safe to differentiate.

    The package's own forward has a NaN gradient where a position's features are all zero; this one takes its networks
    and normalises with an epsilon under which zero features stay zero.
    """

    def __init__(self) -> None:
        super().__init__()
        import lpips

        self.network = lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances `(B,)` of images `(B, C, H, W)` in [-1, 1], C = 1 or 3."""
        with torch.autocast(first.device.type, enabled=False):
            a, b = (self.network.scaling_layer(x.float().expand(-1, 3, -1, -1)) for x in (first, second))
            total = a.new_zeros(len(a))
            for x, y, head in zip(self.network.net(a), self.network.net(b), self.network.lins, strict=True):
                difference = F.normalize(x, dim=1, eps=1e-3) - F.normalize(y, dim=1, eps=1e-3)
                total = total + head(difference.square()).mean((1, 2, 3))
            return total


def build_perceptual(name: str) -> tuple[nn.Module | None, str]:
    """The distance called `name` and the name of what it became ("auto" resolves). Raises UserError."""
    if name == "none":
        return None, "none"
    if name in ("auto", "lpips"):
        try:
            return LPIPSDistance(), "lpips"
        except OSError as error:
            if name == "lpips":
                raise UserError(
                    f"lpips needs VGG-16's weights, which cannot be downloaded ({error}): place vgg16-397923af.pth in "
                    f"{torch.hub.get_dir()}/checkpoints, or set tokenizer.loss.perceptual=efficientnet"
                ) from error
    try:
        return EfficientNetDistance(), "efficientnet"
    except UserError:
        if name == "efficientnet":
            raise
    log.warning("no perceptual loss: neither lpips' backbone nor the extra 'perceptual' can be had")
    return None, "none"


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of relu(1 - D(real)) and relu(1 + D(fake)), halved (arXiv 1705.02894)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction_gradient: Tensor, adversarial_gradient: Tensor) -> Tensor:
    """|grad of reconstruction| / |grad of adversarial| at the decoder's last layer (VQGAN, arXiv 2012.09841, eq. 7)."""
    ratio = reconstruction_gradient.norm() / (adversarial_gradient.norm() + 1e-4)
    return ratio.clamp(0, 1e4).detach()
