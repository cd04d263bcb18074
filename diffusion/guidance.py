"""Classifier-free guidance for discrete diffusion: mixing, normalising, and how its strength goes with the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.errors import UserError
from diffusion.graph import Absorbing, Graph

# (codes (B, ...), sigma (B,), rows (B,): which pictures these are) -> log p(x0) (K, B, ..., V)
Network = Callable[[Tensor, Tensor, Tensor], Tensor]
RAMPS = ("constant", "linear", "power_cosine")


@dataclass(frozen=True)
class Guidance:
    """How strong guidance is at each point of sampling.

    Attributes:
        scale: g of diffusers' guidance_scale: 1 is off, and g = 1 + w in the papers' notation. At least 0.
        ramp: constant | linear (from 1 up to g) | power_cosine (the same, slower at first; MDTv2, arXiv 2303.14389).
        interval: (first, last) share of the steps in which guidance acts (arXiv 2404.07724); outside it g is 1.

    Raises:
        UserError: an unknown ramp, a negative scale, an interval that is none.
    """

    scale: float = 1.0
    ramp: str = "constant"
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not (self.scale >= 0 and math.isfinite(self.scale)):
            raise UserError(f"guidance must be a number of at least 0, got {self.scale}: 1 is off, 2 is usual")
        if self.ramp not in RAMPS:
            raise UserError(f"unknown guidance ramp '{self.ramp}': known are {', '.join(RAMPS)}")
        if not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise UserError(
                f"the guidance interval must be two rising shares of the steps in [0, 1], got {self.interval}"
            )

    def at(self, progress: float) -> float:
        """g after a share `progress` in [0, 1] of the steps."""
        if not self.interval[0] <= progress <= self.interval[1]:
            return 1.0
        share = {
            "constant": 1.0,
            "linear": progress,
            "power_cosine": (1 - math.cos(math.pi * progress**2)) / 2,
        }[self.ramp]
        return 1 + (self.scale - 1) * share


def guided_log_probability(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """log p of the guided prediction: g log p(.|c) + (1 - g) log p(.), normalised again over the last axis.

    For the absorbing graph this is done to p(x0): normalising keeps the total rate of unmasking,
    sum_y s(y) = 1 / (e^sigma - 1); without it guidance would also speed up unmasking. For the uniform graph it is done
    to the distribution of the next state (UDLM, arXiv 2412.10193, equation 9).

    Args:
        conditional, unconditional: logits or log-probabilities `(..., V)`.
    """
    conditional = torch.log_softmax(conditional, dim=-1)
    if scale == 1:
        return conditional
    unconditional = torch.log_softmax(unconditional, dim=-1)
    # A code that the condition rules out stays so, and one that only the other side rules out gets no infinite bonus.
    mixed = scale * conditional.clamp(min=-1e3) + (1 - scale) * unconditional.clamp(min=-1e3)
    return torch.log_softmax(mixed.masked_fill(conditional == -torch.inf, -torch.inf), dim=-1)


def prior_network(
    model: nn.Module, graph: Graph, labels: Tensor, no_class: int, guided: bool, raw_score: bool = False
) -> Network:
    """The `Network` of a trained prior: log p(x0) with the labels and, where `guided`, also without, in one batch."""

    def network(codes: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        wanted = labels[rows]
        if guided:
            codes, sigma = torch.cat([codes, codes]), torch.cat([sigma, sigma])
            wanted = torch.cat([wanted, torch.full_like(wanted, no_class)])
        output = model(codes, sigma.float(), wanted).float()
        if raw_score:
            assert not isinstance(graph, Absorbing)
            output = graph.log_clean(graph.raw_log_score(output, codes), codes, sigma)
        else:
            output = graph.posterior(output, codes, sigma.to(output.dtype))
        output = torch.log_softmax(output, dim=-1)
        return output.unflatten(0, (2 if guided else 1, -1))

    return network
