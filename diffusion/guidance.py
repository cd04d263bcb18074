"""Classifier-free guidance for discrete diffusion: the mixture, and how its strength changes with the steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.settings import SamplingSettings


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

    For the absorbing graph this mixes p(x0): normalising keeps the total rate of unmasking,
    sum_y s(y) = 1 / (e^sigma - 1); without it guidance would also speed up unmasking. For the uniform graph it mixes
    the distributions of the next state (UDLM, arXiv 2412.10193, equation 9).

    Args:
        conditional, unconditional: logits or log-probabilities `(..., V)`.
        scale: g of diffusers' guidance_scale: 1 is off, and g = 1 + w in the papers' notation.
    """
    conditional = torch.log_softmax(conditional, dim=-1)
    if scale == 1:
        return conditional
    unconditional = torch.log_softmax(unconditional, dim=-1)
    # A code that the condition excludes stays excluded, and one that only the other side excludes gets no infinite bonus.
    mixed = scale * conditional.clamp(min=-1e3) + (1 - scale) * unconditional.clamp(min=-1e3)
    return torch.log_softmax(mixed.masked_fill(conditional == -torch.inf, -torch.inf), dim=-1)
