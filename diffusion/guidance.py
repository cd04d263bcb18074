"""Classifier-free guidance for discrete diffusion, and the order of guidance, temperature and top-p."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.nucleus import apply_temperature, apply_temperature_top_p, nucleus, restrict
from diffusion.settings import SamplingSettings

EXTREME_SCALE = 1e20  # float32 overflows beyond; the result is already the code that gains most from the condition


def guidance_scale_at(settings: SamplingSettings, progress: float) -> float:
    """The guidance scale after a fraction `progress` in [0, 1] of the steps; 1 outside the guidance interval."""
    if not settings.guidance_interval[0] <= progress <= settings.guidance_interval[1]:
        return 1.0
    fraction = {
        "constant": 1.0,
        "linear": progress,
        "power_cosine": (1 - math.cos(math.pi * progress**2)) / 2,
    }[settings.guidance_ramp]
    return 1 + (settings.guidance_scale - 1) * fraction


def guided_log_probability(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """log p of the guided prediction: g log p(.|c) + (1 - g) log p(.), normalised again over the last axis.

    A code that the condition excludes (p = 0) stays excluded. One that only the other side excludes gets no bonus: it
    counts as if both sides gave it p(.|c). No distribution excludes a code that one of its conditions allows, so that
    such a 0 is a cut or a rounding, and says nothing about the condition.

    Args:
        conditional, unconditional: logits or log-probabilities `(..., V)`.
        scale: g of diffusers' guidance_scale: 1 is off, 0 is the unconditional side, and g = 1 + w in the papers' notation.
    """
    conditional = torch.log_softmax(conditional, dim=-1)
    if scale == 1:
        return conditional
    unconditional = torch.log_softmax(unconditional, dim=-1)
    if scale == 0:
        return unconditional
    scale = min(scale, EXTREME_SCALE)
    mixed = scale * conditional + (1 - scale) * _without_cuts(conditional, unconditional)
    return torch.log_softmax(mixed.masked_fill(conditional == -torch.inf, -torch.inf), dim=-1)


def _without_cuts(conditional: Tensor, unconditional: Tensor) -> Tensor:
    """The unconditional side, with the conditional value for a code that it alone excludes. Not normalised."""
    return torch.where(unconditional == -torch.inf, conditional, unconditional)


class Adjustment(NamedTuple):
    """What is done to the network's log p(x0), in this order: guidance, temperature, top-p.

    Predictions are `(K, B, ..., V)`: with the labels and, for K = 2, without.

    scale: of guidance; not read for K = 1.
    temperature, top_p: as in `SamplingSettings`.
    """

    scale: float
    temperature: float
    top_p: float

    def log_p0(self, predictions: Tensor) -> Tensor:
        """Log p(x0) `(B, ..., V)`: guided, then at temperature, then cut to the nucleus."""
        return apply_temperature_top_p(self._guided(self._needed(predictions)), self.temperature, self.top_p)

    def sides(self, predictions: Tensor) -> Tensor:
        """The predictions that guidance needs, at temperature and cut, for a graph that mixes later than p(x0).

        Two `(2, B, ..., V)`, or the only one that counts `(1, B, ..., V)`: for K = 1, at scale 1 and at scale 0.
        Both sides are cut to the same codes: the nucleus of the guided p(x0) at temperature. A nucleus of each side's own
        would cut a code from the unconditional side alone, and guidance would then rate it infinitely high. Temperature
        and guidance are both powers of probabilities, so their order does not matter: the mixture of `sides` is `log_p0`.
        """
        tempered = apply_temperature(self._needed(predictions), self.temperature)
        if len(tempered) > 1:
            filled = _without_cuts(tempered[0], tempered[1])
            tempered = torch.stack([tempered[0], torch.log_softmax(filled, dim=-1)])
        if self.top_p == 1:
            return tempered
        return restrict(tempered, nucleus(self._guided(tempered), self.top_p))

    def _needed(self, predictions: Tensor) -> Tensor:
        if len(predictions) > 1 and self.scale in (0, 1):
            return predictions[:1] if self.scale == 1 else predictions[1:]
        return predictions

    def _guided(self, predictions: Tensor) -> Tensor:
        if len(predictions) == 1:
            return predictions[0]
        return guided_log_probability(predictions[0], predictions[1], self.scale)
