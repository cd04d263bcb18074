"""Samplers of the absorbing graph: each decides which masked positions are unmasked together, and which codes are masked again.

They are loops over a `SamplerState`, as those of sampler.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.errors import UserError
from diffusion.forward_process import Transition, per_position
from diffusion.halton import halton_order
from diffusion.sampling import SamplerState, masked_counts, rank, sample_categorical, sample_transition, unmask
from diffusion.transitions import remdm_probabilities


def first_hitting(state: SamplerState) -> None:
    """One position at a time in random order: exact, without time steps (Zheng et al., arXiv 2409.02908, algorithm 2).

    With fewer steps than positions several are unmasked at each network call, and it is no longer exact.
    """
    ratio = (-torch.expm1(-state.sigmas[0])).expand(len(state.codes)).clone()
    count = state.masked.flatten(1).sum(1).cpu()
    for step in range(state.steps):
        left = (count * (state.steps - step - 1)) // state.steps
        clock = state.uniform().flatten(1).cpu()
        now = state.masked.flatten(1).sum(1).cpu()
        for hit in range(int((now - left).max())):  # the mask ratio at the next hit is m u^(1 / n)
            remaining = now - hit
            ratio = torch.where(remaining > left, ratio * clock[:, hit] ** (1 / remaining.clamp(min=1)), ratio)
        order = rank(state.uniform(), state.masked)
        chosen = state.masked & (order < per_position((now - left).to(order.device), order))
        if bool(chosen.any()):
            sigma = -torch.log1p(-ratio)
            unmask(state, chosen, state.log_p0(sigma, step / state.steps), state.sigmas[-1])
        state.run_callback(step + 1)


def maskgit(state: SamplerState, *, choice_temperature: float = 4.5) -> None:
    """Sample every masked code, keep the most confident, as many as the schedule says (MaskGIT, arXiv 2202.04200).

    Args:
        choice_temperature: Gumbel noise on the log-confidence, falling with the mask ratio; 0 is greedy.
    """
    if choice_temperature < 0:
        raise UserError(f"choice_temperature must not be negative, got {choice_temperature}")
    ratio = -torch.expm1(-state.sigmas)
    for step, left in enumerate(masked_counts(state)):
        masked = state.masked
        count = masked.flatten(1).sum(1) - left
        if bool((count > 0).any()):
            log_p0 = state.log_p0(state.sigmas[step], step / state.steps)
            codes = sample_categorical(log_p0, state.uniform())
            confidence = log_p0.gather(-1, codes[..., None]).squeeze(-1).double()
            confidence = confidence + choice_temperature * ratio[step + 1].item() * state.gumbel()
            chosen = masked & (rank(confidence, masked) < per_position(count, masked))
            state.update(torch.where(chosen, codes, state.codes), state.sigmas[-1])
        state.run_callback(step + 1)


def halton(state: SamplerState) -> None:
    """A fixed low-discrepancy order over the grid, as many codes a step as scheduled (Besnier et al., arXiv 2503.17076)."""
    order = halton_order(state.shape).to(state.device)
    for step, left in enumerate(masked_counts(state)):
        masked = state.masked
        count = masked.flatten(1).sum(1) - left
        if bool((count > 0).any()):
            chosen = masked & (rank(-order.double().expand_as(masked), masked) < per_position(count, masked))
            unmask(state, chosen, state.log_p0(state.sigmas[step], step / state.steps), state.sigmas[-1])
        state.run_callback(step + 1)


def entropy_bound(state: SamplerState, *, bound: float = 1.0) -> None:
    """Unmask together the positions of lowest entropy while their joint error is bounded (Ben-Hamu et al., arXiv 2505.24857).

    Takes the most positions whose entropies, except the largest, sum to at most `bound`. The number of network calls
    adapts; `steps` is the most there are.

    Args:
        bound: in nats; 0 unmasks one position at a time (as far as `steps` allows).
    """
    if bound < 0:
        raise UserError(f"bound must not be negative, got {bound}")
    ratio = -torch.expm1(-state.sigmas[0])
    total = state.masked.flatten(1).sum(1)
    for step in range(state.steps):
        masked = state.masked
        now = masked.flatten(1).sum(1)
        if not bool((now > 0).any()):
            break
        part = (now / total.clamp(min=1)).cpu().double().clamp(min=1e-6)
        log_p0 = state.log_p0(-torch.log1p(-ratio * part), step / state.steps).double()
        entropy = torch.special.entr(log_p0.exp()).sum(-1).masked_fill(~masked, torch.inf)
        rising = entropy.flatten(1).sort(dim=1).values
        before = torch.cat([torch.zeros_like(rising[:, :1]), rising.cumsum(1)[:, :-1]], dim=1)
        count = (before <= bound).sum(1)  # the sum without the largest, which comes last
        count = torch.maximum(count, -(-now // (state.steps - step)))
        chosen = masked & (rank(-entropy, masked) < per_position(count, masked))
        unmask(state, chosen, log_p0, state.sigmas[-1])
        state.run_callback(step + 1)


def remdm(state: SamplerState, *, mode: str = "cap", eta: float = 0.05) -> None:
    """Analytic steps that may mask codes again, so that early mistakes can be corrected (ReMDM, Wang et al., arXiv 2503.00307).

    A visible code is masked with rate r <= r_max = min(1, (1 - a_s) / a_t), a masked one unmasked with probability
    (a_s - (1 - r) a_t) / (1 - a_t), a = e^-sigma, which keeps the marginals.

    Args:
        mode: cap: r = min(eta, r_max). rescale: r = eta r_max. confidence: r_max divided over the visible codes by
            softmax of minus the log-probability that each was sampled with. This does not keep the marginals, not even
            on average: more codes are masked than the schedule says (of two codes 0.82 where it says 0.50, in 8 steps).
        eta: in [0, 1]; not read by confidence.
    """
    if mode not in ("cap", "rescale", "confidence") or not 0 <= eta <= 1:
        raise UserError(f"wanted mode cap, rescale or confidence and eta in [0, 1], got {mode} and {eta}")
    confidence = torch.zeros(state.codes.shape, dtype=torch.float64, device=state.codes.device)
    for step in range(state.steps):
        log_p0 = state.log_p0(state.sigmas[step], step / state.steps)
        masked, before = state.masked, state.codes
        remask, unmask_prob = remdm_probabilities(state.sigmas[step], state.sigmas[step + 1], mode, eta)
        rate = torch.full_like(confidence, remask)
        if mode == "confidence":
            weight = (-confidence).masked_fill(masked, -torch.inf).flatten(1)
            rate = remask * torch.nan_to_num(weight.softmax(1)).view_as(confidence)
        codes = sample_transition(state, Transition(masked.double() * unmask_prob, log_p0))
        codes = torch.where(~masked & (state.uniform() < rate), state.graph.mask_state, codes)
        state.update(codes, state.sigmas[step + 1])
        confidence = _confidence(state, log_p0, (before != state.codes) & ~state.masked, confidence)
        state.run_callback(step + 1)


def informed_corrector(state: SamplerState, *, redraw: float = 0.1, temperature: float = 2.0) -> None:
    """Analytic steps, each followed by sampling the least confident codes again (Zhao et al., arXiv 2407.21243).

    Confidence is the log-probability that a code was sampled with, plus Gumbel noise. The chosen codes are masked and
    sampled again given the others; for one code chosen at random that is a Gibbs step, which keeps the marginal.

    Args:
        redraw: fraction of the positions that is sampled again, at least one position.
        temperature: of the Gumbel noise; 1, 2, 5, 10 are the paper's best at 16, 32, 64, 128 steps.
    """
    if not 0 < redraw <= 1 or temperature < 0:
        raise UserError(f"wanted redraw in (0, 1] and temperature at least 0, got {redraw} and {temperature}")
    confidence = torch.zeros(state.codes.shape, dtype=torch.float64, device=state.codes.device)
    count = max(1, round(redraw * math.prod(state.shape)))
    for step in range(state.steps):
        sigma, sigma_next = state.sigmas[step], state.sigmas[step + 1]
        log_p0, was_masked = state.log_p0(sigma, step / state.steps), state.masked
        transition = state.graph.reverse_step(log_p0, state.codes, sigma, sigma_next)
        state.update(sample_transition(state, transition), sigma_next)
        confidence = _confidence(state, log_p0, was_masked & ~state.masked, confidence)
        chosen = least_confident(state, confidence, ~state.masked, count, temperature)
        state.update(torch.where(chosen, state.graph.mask_state, state.codes), sigma_next)
        chosen &= state.masked  # known codes came back at once
        log_p0 = state.log_p0(sigma_next.clamp(min=1e-6), (step + 1) / state.steps)
        unmask(state, chosen, log_p0, sigma_next)
        confidence = _confidence(state, log_p0, chosen & ~state.masked, confidence)
        state.run_callback(step + 1)


def _confidence(state: SamplerState, log_p0: Tensor, fresh: Tensor, confidence: Tensor) -> Tensor:
    """`confidence` with the log-probability of the present code at the positions `fresh` (bool `(B, ...)`)."""
    codes = state.codes.clamp(max=log_p0.shape[-1] - 1)  # any code for masked positions, which are never fresh
    return torch.where(fresh, log_p0.double().gather(-1, codes[..., None]).squeeze(-1), confidence)


def least_confident(state: SamplerState, confidence: Tensor, visible: Tensor, count: int, temperature: float) -> Tensor:
    """The `count` visible positions `(B, ...)` of lowest confidence plus Gumbel noise; fewer where fewer are visible."""
    noisy = confidence + temperature * state.gumbel()
    return visible & (rank(-noisy, visible) < count)
