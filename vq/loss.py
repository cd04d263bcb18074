"""Losses of the tokenizer: reconstruction, perceptual, adversarial. All of them in float32, outside autocast."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.features import EfficientNetFeatures, WeightsMissing, weights_at

log = logging.getLogger(__name__)
PERCEPTUAL = ("auto", "lpips", "efficientnet", "resnet50", "none")


@dataclass
class LossConfig:
    """`tokenizer.loss.*`."""

    reconstruction: str = "l1"  # l1 | l2
    reconstruction_weight: float = 1.0
    # lpips | efficientnet | resnet50 | none; auto: lpips where it can be had, else efficientnet, else none
    perceptual: str = "auto"
    perceptual_weight: float = 1.0
    adversarial: str = "hinge"  # hinge | non_saturating
    adversarial_weight: float = 0.8  # taming-transformers' value, for the adaptive weight; 0 turns the GAN off
    adaptive: bool = True  # times the ratio of gradients at the last layer, see `adaptive_weight`; False: as it stands
    adversarial_start: int = 1000  # step from which the discriminator learns
    adversarial_warmup: int = 1000  # steps over which its weight on the generator then grows from 0 to the whole
    lecam_weight: float = 0.0  # keeps the discriminator near its own average answers; 0.001 in VQGAN+
    lecam_decay: float = 0.999
    r1_weight: float = 0.0  # of the discriminator's squared gradient on real pictures
    r1_every: int = 16  # steps between two of these, each weighing as many times more

    def __post_init__(self) -> None:
        choices = {"reconstruction": RECONSTRUCTION, "perceptual": PERCEPTUAL, "adversarial": ADVERSARIAL}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"tokenizer.loss.{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'"
                )
        for name in (
            "reconstruction_weight", "perceptual_weight", "adversarial_weight", "adversarial_start",
            "adversarial_warmup", "lecam_weight", "r1_weight",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"tokenizer.loss.{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.lecam_decay < 1 or self.r1_every < 1:
            raise ValueError("tokenizer.loss.lecam_decay must lie in [0, 1) and r1_every be at least 1")


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

    Args:
        pretrained: False builds the network with random weights and downloads nothing.
    """

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        import lpips

        random_weights = {} if pretrained else {"pretrained": False, "pnet_rand": True}
        self.network = lpips.LPIPS(net="vgg", verbose=False, **random_weights).eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances `(B,)` of images `(B, C, H, W)` in [-1, 1], C = 1 or 3."""
        with torch.autocast(first.device.type, enabled=False):
            a, b = (self.network.scaling_layer(x.float().expand(-1, 3, -1, -1)) for x in (first, second))
            total = a.new_zeros(len(a))
            for x, y, head in zip(self.network.net(a), self.network.net(b), self.network.lins, strict=True):
                difference = F.normalize(x, dim=1, eps=1e-3) - F.normalize(y, dim=1, eps=1e-3)
                total = total + head(difference.square()).mean((1, 2, 3))
            return total


class ResNetLogitDistance(nn.Module):
    """Squared distance of ResNet-50's ImageNet logits: the perceptual loss of VQGAN+ (arXiv 2409.16211, section 3).

    Args:
        pretrained: False builds the network with random weights and downloads nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        from torchvision.models import ResNet50_Weights, resnet50

        weights = ResNet50_Weights.IMAGENET1K_V1 if pretrained else None
        self.network = resnet50(weights=weights).eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> ResNetLogitDistance:
        """Stay in eval mode: batch statistics must not move."""
        return super().train(False)

    def _logits(self, images: Tensor) -> Tensor:
        images = ((images.float() + 1) / 2).expand(-1, 3, -1, -1)
        images = F.interpolate(images, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
        return self.network((images - self.mean) / self.std)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances `(B,)` of images `(B, C, H, W)` in [-1, 1], resized to 224 x 224."""
        with torch.autocast(first.device.type, enabled=False):
            with torch.no_grad():
                wanted = self._logits(second)
            return (self._logits(first) - wanted).square().mean(1)


DOWNLOADED = {"lpips": (LPIPSDistance, "VGG16_Weights"), "resnet50": (ResNetLogitDistance, "ResNet50_Weights")}


def load_downloaded(name: str, download: bool = True) -> nn.Module:
    """The distance of DOWNLOADED called `name`, with torchvision's weights.

    Raises:
        WeightsMissing: they are not there and cannot or may not (`download`) be fetched.
    """
    import torchvision.models

    distance, weights = DOWNLOADED[name]
    url = getattr(torchvision.models, weights).IMAGENET1K_V1.url
    with weights_at(Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1], url, download):
        return distance()


def build_perceptual(name: str) -> tuple[nn.Module | None, str]:
    """The distance called `name` and the name of what it became ("auto" resolves). Raises UserError."""
    if name == "none":
        return None, "none"
    wanted = "lpips" if name == "auto" else name
    if wanted in DOWNLOADED:
        try:
            return load_downloaded(wanted), wanted
        except WeightsMissing as missing:
            if name != "auto":
                raise UserError(f"{name}: {missing}; or set tokenizer.loss.perceptual=efficientnet") from missing
    try:
        return EfficientNetDistance(), "efficientnet"
    except UserError:
        if name == "efficientnet":
            raise
    log.warning("no perceptual loss: neither lpips' backbone nor the extra 'perceptual' can be had")
    return None, "none"


RECONSTRUCTION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of relu(1 - D(real)) and relu(1 + D(fake)), halved (arXiv 1705.02894)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """-mean D(fake)."""
    return -fake.mean()


def non_saturating_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigmoid(D(real)) - log(1 - sigmoid(D(fake))), halved (arXiv 1406.2661, equation 1)."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """-log sigmoid(D(fake)) (arXiv 1406.2661, section 3)."""
    return F.softplus(-fake).mean()


ADVERSARIAL = {
    "hinge": (hinge_discriminator_loss, hinge_generator_loss),
    "non_saturating": (non_saturating_discriminator_loss, non_saturating_generator_loss),
}


def adaptive_weight(reconstruction_gradient: Tensor, adversarial_gradient: Tensor) -> Tensor:
    """|grad of reconstruction| / |grad of adversarial| at the decoder's last layer (VQGAN, arXiv 2012.09841, eq. 7)."""
    ratio = reconstruction_gradient.norm() / (adversarial_gradient.norm() + 1e-4)
    return ratio.clamp(0, 1e4).detach()


def warm_in(step: int, start: int, warmup: int) -> float:
    """Share in [0, 1] of the adversarial weight at `step`: 0 before `start`, then linear over `warmup` steps."""
    if step < start:
        return 0.0
    return min(1.0, (step - start + 1) / warmup) if warmup else 1.0


class LeCam(nn.Module):
    """LeCAM: keeps real answers near the average of fake ones and the other way round (arXiv 2104.03310, equation 3).

    `real` and `fake` are moving averages of the discriminator's mean answers; the first call sets them.
    """

    real: Tensor
    fake: Tensor
    started: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        for name in ("real", "fake", "started"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def update(self, real: Tensor, fake: Tensor) -> None:
        """Move the averages to the mean answers over all processes (scalars); ones that are not finite are left out."""
        if not bool(torch.isfinite(real + fake)):
            return
        decay = self.decay * self.started  # 0 at the first call
        self.real.lerp_(real, 1 - decay)
        self.fake.lerp_(fake, 1 - decay)
        self.started.fill_(1)

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """relu(mean D(real) - average fake)^2 + relu(average real - mean D(fake))^2."""
        return F.relu(real.mean() - self.fake).square() + F.relu(self.real - fake.mean()).square()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Half the mean squared norm of the discriminator's gradient on real pictures (arXiv 1801.04406, equation 9).

    Args:
        logits: its answers to `images`, which must require a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return 0.5 * gradient.square().flatten(1).sum(1).mean()
