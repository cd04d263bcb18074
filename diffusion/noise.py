"""Noise schedules: time t in [0, 1] to the total noise sigma(t) and its rate dsigma(t) = d sigma / dt.

A code survives unmasked with probability exp(-sigma). Sigma grows from (almost) 0 at t = 0 to a large value at t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from common.errors import UserError


class Noise(Protocol):
    """A schedule: `noise(t)` with t `(B,)` in [0, 1] returns `(sigma, dsigma)`, both `(B,)` and finite."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, dsigma), both `(B,)`, at times t `(B,)`."""


class LogLinear:
    """sigma = -log(1 - (1 - eps) t), so the mask ratio grows linearly (SEDD, arXiv 2310.16834, section 5.1).

    `eps` keeps sigma(1) finite: a fraction eps of the codes stays visible at t = 1, although sampling starts all masked.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        if not 0 < eps < 1:
            raise ValueError(f"eps must lie in (0, 1), got {eps}")
        self.eps = eps

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, dsigma), both `(B,)`, at times t `(B,)`."""
        rate = 1 - self.eps
        return -torch.log1p(-rate * t), rate / (1 - rate * t)


class Cosine:
    """exp(-sigma) = eps + (1 - eps)(1 - cos(pi (1 - t) / 2)) (MaskGIT, arXiv 2202.04200; MD4, arXiv 2406.04329).

    Spends more of its time at high mask rates than `LogLinear`. `eps` keeps sigma(1) finite.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        if not 0 < eps < 1:
            raise ValueError(f"eps must lie in (0, 1), got {eps}")
        self.eps = eps

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, dsigma), both `(B,)`, at times t `(B,)`."""
        angle = math.pi / 2 * (1 - t)
        rate = 1 - self.eps
        masked = rate * torch.cos(angle)  # 1 - survival, kept apart so that small t loses no digits
        dsigma = rate * (math.pi / 2) * torch.sin(angle) / (1 - masked)
        return -torch.log1p(-masked), dsigma


class Geometric:
    """sigma = sigma_min^(1-t) sigma_max^t (SEDD, arXiv 2310.16834, section 5.1), the usual choice for the uniform graph.

    At t = 0 a noise of `sigma_min` is left, at t = 1 one of `sigma_max`: both ends are finite, and neither is exact.
    """

    def __init__(self, sigma_min: float = 1e-4, sigma_max: float = 20.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"wanted 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.log_range = sigma_min, math.log(sigma_max / sigma_min)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, dsigma), both `(B,)`, at times t `(B,)`."""
        sigma = self.sigma_min * torch.exp(self.log_range * t)
        return sigma, sigma * self.log_range


class Polynomial:
    """exp(-sigma) = 1 - (1 - eps) t^power, so the noise grows slowly at first (MD4, arXiv 2406.04329, table 1).

    `power` 1 is `LogLinear`. dsigma(0) is 0 for powers above 1. `eps` keeps sigma(1) finite.
    """

    def __init__(self, power: float = 2.0, eps: float = 1e-3) -> None:
        if not (power >= 1 and 0 < eps < 1):
            raise ValueError(f"wanted power at least 1 and eps in (0, 1), got {power} and {eps}")
        self.power, self.eps = power, eps

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, dsigma), both `(B,)`, at times t `(B,)`."""
        rate = 1 - self.eps
        lost = rate * t**self.power
        return -torch.log1p(-lost), rate * self.power * t ** (self.power - 1) / (1 - lost)


NOISES: dict[str, Callable[[], Noise]] = {
    "loglinear": LogLinear,
    "cosine": Cosine,
    "geometric": Geometric,
    "polynomial": Polynomial,
}


def build_noise(name: str) -> Noise:
    """The schedule called `name`. Raises UserError for an unknown name."""
    if name not in NOISES:
        raise UserError(f"unknown noise schedule '{name}': prior.noise is one of {', '.join(NOISES)}")
    return NOISES[name]()


def time_of_noised_fraction(noise: Noise, fraction: float) -> float:
    """The time at which noise has hit a fraction 1 - exp(-sigma) of the codes, by bisection; 0 or 1 where it never is."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        sigma, _ = noise(torch.tensor([middle], dtype=torch.float64))
        low, high = (middle, high) if -math.expm1(-sigma.item()) < fraction else (low, middle)
    return high


def stratified_times(batch_size: int, generator: torch.Generator, *, rank: int = 0, world_size: int = 1) -> Tensor:
    """Times `(B,)` in [0, 1), one in each of B * world_size equal strata, of which this process gets its part.

    All processes pass generators in the same state. One common offset shifts every stratum, which cuts the variance of
    the loss (VDM, arXiv 2107.00630, appendix I.1).
    """
    offset = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)
    strata = torch.arange(batch_size, device=generator.device, dtype=torch.float64) * world_size + rank
    return ((strata + offset) / (batch_size * world_size)).float()
