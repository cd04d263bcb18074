"""What a sampling step does to each position, as probabilities.

Whether a position leaves its state and which code it then shows are kept apart, and sampled apart: one joint sample in float32
loses rare events, because float32 uniforms end at 2^-24.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.forward_process import Graph, Rates, Transition


def split_rates(rates: Tensor) -> Rates:
    """The sum over codes of rates `(B, ..., V)`, and their logarithms after normalising."""
    total = rates.sum(-1)
    return Rates(total, torch.log(rates / total[..., None].clamp(min=1e-300)))


def unmask_probability(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Probability that a position masked at `sigma` is unmasked at `sigma_next` < `sigma`, both float64.

    (e^-sigma_next - e^-sigma) / (1 - e^-sigma).
    """
    return (torch.exp(-sigma_next) - torch.exp(-sigma)) / -torch.expm1(-sigma)


def euler_transition(graph: Graph, log_p0: Tensor, codes: Tensor, sigma: Tensor, leap: float) -> Transition:
    """First-order step over `leap` = dt dsigma: exit with probability leap times the rate, cut at 1 for coarse steps."""
    rates = graph.reverse_rates(log_p0, codes, sigma)
    return Transition((rates.exit_rate * leap).clamp(max=1), rates.log_next)


def tau_leaping_transition(graph: Graph, log_p0: Tensor, codes: Tensor, sigma: Tensor, leap: float) -> Transition:
    """Rates held fixed over `leap` = dt dsigma (Campbell et al., arXiv 2205.14987, section 4.3).

    A position exits unless its Poisson count is 0. Codes have no order, so of several jumps one is taken.
    """
    rates = graph.reverse_rates(log_p0, codes, sigma)
    return Transition(-torch.expm1(-rates.exit_rate * leap), rates.log_next)


def held_rates_transition(rates: Tensor, time: float) -> Transition:
    """The transition of `rates` `(B, ..., V)` per unit of t, held fixed over `time`."""
    total, log_next = split_rates(rates)
    return Transition(-torch.expm1(-total * time), log_next)


def extrapolated_rates(first: Tensor, second: Tensor, theta: float) -> Tensor:
    """(c1 mu* - c2 mu)+ of the rates mu at the beginning and mu* inside a step (arXiv 2502.00234, algorithm 2).

    c1 = 1 / (2 theta (1 - theta)) and c2 = c1 - 1.
    """
    c1 = 1 / (2 * theta * (1 - theta))
    return (c1 * second - (c1 - 1) * first).clamp(min=0)


def remdm_probabilities(sigma: Tensor, sigma_next: Tensor, mode: str, eta: float) -> tuple[float, float]:
    """Probabilities of remasking a visible code and of unmasking a masked one in a step (arXiv 2503.00307).

    Args:
        sigma, sigma_next: scalars, falling.
        mode, eta: see `diffusion.sampler.remdm`.
    """
    now, then = math.exp(-sigma), math.exp(-sigma_next)
    largest = min(1.0, (1 - then) / now)
    remask = {"cap": min(eta, largest), "rescale": eta * largest, "confidence": largest}[mode]
    remask_of_unmasked = 0.0 if mode == "confidence" else remask  # masked positions then take no part in it
    return remask, 1.0 if then == 1 else (then - (1 - remask_of_unmasked) * now) / (1 - now)
