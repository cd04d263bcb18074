"""Losses of the tokenizer and of its discriminator, computed in float32; perceptual distances are in vq/perceptual.py.

D(x) stands for the discriminator's logits of images x; "real" are training images, "fake" are reconstructions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PERCEPTUAL = ("auto", "lpips", "efficientnet", "resnet50", "none")


@dataclass
class LossConfig:
    """`tokenizer.loss.*`."""

    reconstruction: str = "l1"  # l1 | l2
    reconstruction_weight: float = 1.0
    # lpips | efficientnet | resnet50 | none; auto: lpips if its weights are available, else efficientnet, else none
    perceptual: str = "auto"
    perceptual_weight: float = 1.0
    adversarial: str = "hinge"  # hinge | non_saturating
    adversarial_weight: float = 0.8  # value of taming-transformers, for adaptive=true; 0 trains without discriminator
    adaptive: bool = True  # multiply adversarial_weight by the ratio of gradients, see `adaptive_weight`
    adversarial_start: int = 1000  # step from which the discriminator is trained
    adversarial_warmup: int = (
        1000  # steps after that over which the adversarial loss of the generator reaches its weight
    )
    lecam_weight: float = 0.0  # keeps the discriminator's logits near their moving averages; 0.001 in VQGAN+
    lecam_decay: float = 0.999  # of these moving averages
    r1_weight: float = 0.0  # of the discriminator's squared gradient on real images
    r1_every: int = 16  # steps between two R1 penalties; each is multiplied by this number

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


RECONSTRUCTION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half of mean relu(1 - D(real)) + mean relu(1 + D(fake)) (arXiv 1705.02894), of logits of any shape."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """-mean D(fake) (arXiv 1705.02894)."""
    return -fake.mean()


def non_saturating_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half of mean -log sigmoid(D(real)) + mean -log(1 - sigmoid(D(fake))) (arXiv 1406.2661, equation 1)."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """Mean -log sigmoid(D(fake)) (arXiv 1406.2661, section 3)."""
    return F.softplus(-fake).mean()


# name -> (loss of the discriminator, loss of the generator)
ADVERSARIAL = {
    "hinge": (hinge_discriminator_loss, hinge_generator_loss),
    "non_saturating": (non_saturating_discriminator_loss, non_saturating_generator_loss),
}


def adaptive_weight(reconstruction_gradient: Tensor, adversarial_gradient: Tensor) -> Tensor:
    """|gradient of the reconstruction loss| / |gradient of the adversarial loss|, clamped to [0, 10000].

    Both are gradients with respect to the weight of the decoder's last layer (VQGAN, arXiv 2012.09841, equation 7).
    """
    ratio: Tensor = reconstruction_gradient.norm() / (adversarial_gradient.norm() + 1e-4)
    return ratio.clamp(0, 1e4).detach()


def linear_warmup(step: int, start: int, warmup: int) -> float:
    """Factor in [0, 1] of the adversarial weight at `step`: 0 before `start`, then linear to 1 over `warmup` steps."""
    if step < start:
        return 0.0
    return min(1.0, (step - start + 1) / warmup) if warmup else 1.0


class LeCam(nn.Module):
    """LeCAM regularisation of the discriminator (arXiv 2104.03310, equation 3).

    Attributes:
        real, fake: moving averages of mean D(real) and mean D(fake); the first update sets them.
        started: 1 after the first update, else 0.
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
        """Update the moving averages with the mean logits over all processes (scalars). Skips values that are not finite."""
        if not bool(torch.isfinite(real + fake)):
            return
        decay = self.decay * self.started  # 0 at the first update
        self.real.lerp_(real, 1 - decay)
        self.fake.lerp_(fake, 1 - decay)
        self.started.fill_(1)

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Scalar relu(mean D(real) - average fake)^2 + relu(average real - mean D(fake))^2 of logits of any shape."""
        penalty: Tensor = F.relu(real.mean() - self.fake).square() + F.relu(self.real - fake.mean()).square()
        return penalty


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Half the mean squared norm of the discriminator's gradient on real images (arXiv 1801.04406, equation 9).

    Args:
        logits: D(images), of any shape.
        images: `(B, C, H, W)`, with requires_grad when `logits` were computed.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return 0.5 * gradient.square().flatten(1).sum(1).mean()
