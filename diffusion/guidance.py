"""Classifier-free guidance for discrete diffusion."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Predictor = Callable[[Tensor, Tensor], Tensor]


def guided_log_probability(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """log p of the guided prediction: g log p(.|c) + (1 - g) log p(.), normalised again over the codes.

    `scale` g follows diffusers' guidance_scale: 1 is off, and g = 1 + w in the papers' notation. Normalising keeps the
    total rate of unmasking, sum_y s(y) = 1 / (e^sigma - 1); without it guidance would also speed up unmasking.

    Args:
        conditional, unconditional: logits `(..., V)`.
    """
    conditional = torch.log_softmax(conditional.float(), dim=-1)
    if scale == 1:
        return conditional
    unconditional = torch.log_softmax(unconditional.float(), dim=-1)
    return torch.log_softmax(scale * conditional + (1 - scale) * unconditional, dim=-1)


def guided_predictor(model: nn.Module, labels: Tensor, scale: float, no_class: int) -> Predictor:
    """`(codes, sigma) -> log p(x0) (B, ..., V)` with both network calls in one batch; one call where `scale` is 1."""

    def predict(codes: Tensor, sigma: Tensor) -> Tensor:
        if scale == 1:
            return torch.log_softmax(model(codes, sigma, labels).float(), dim=-1)
        both = torch.cat([labels, torch.full_like(labels, no_class)])
        conditional, unconditional = model(codes.repeat(2, 1, 1), sigma.repeat(2), both).chunk(2)
        return guided_log_probability(conditional, unconditional, scale)

    return predict
