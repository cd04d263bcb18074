"""Temperature and top-p of a distribution over codes."""

from __future__ import annotations

import torch
from torch import Tensor

EXTREME_TEMPERATURE = 1e20  # float32 overflows beyond; the result is already greedy (its inverse) or uniform (itself)


def apply_temperature(log_probability: Tensor, temperature: float) -> Tensor:
    """Log-probabilities `(..., V)` at `temperature` > 0: p^(1 / temperature), normalised."""
    if temperature == 1:
        return log_probability
    temperature = min(max(temperature, 1 / EXTREME_TEMPERATURE), EXTREME_TEMPERATURE)
    return torch.log_softmax(log_probability / temperature, dim=-1)


def nucleus(log_probability: Tensor, top_p: float) -> Tensor:
    """The fewest codes that hold `top_p` of the probability (arXiv 1904.09751): bool `(..., V)`, at least one True."""
    ordered, order = log_probability.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    return torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before < top_p)


def restrict(log_probability: Tensor, kept: Tensor) -> Tensor:
    """Log-probabilities `(..., V)` of the codes `kept` (bool) alone, normalised."""
    return torch.log_softmax(log_probability.masked_fill(~kept, -torch.inf), dim=-1)


def apply_temperature_top_p(log_probability: Tensor, temperature: float, top_p: float) -> Tensor:
    """Log-probabilities `(..., V)` at `temperature`, restricted to the nucleus of `top_p`; top_p 1 keeps every code."""
    log_probability = apply_temperature(log_probability, temperature)
    return restrict(log_probability, nucleus(log_probability, top_p)) if top_p < 1 else log_probability
