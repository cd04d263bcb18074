"""Samplers: each is one loop from the graph's limit back to codes.

A sampler takes a `SamplerState` (predictor, graph, settings, one random generator a sample) and its own options by keyword,
and leaves the result in `state.codes`. What a step does, as probabilities, stands in transitions.py.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from common.errors import UserError
from common.scalars import PARSERS, Scalar
from diffusion.forward_process import Transition
from diffusion.graph import Graph, per_position
from diffusion.halton import halton_order
from diffusion.sampling import (
    SamplerState,
    guided_transition,
    masked_counts,
    rank,
    sample_categorical,
    sample_transition,
    unmask,
)
from diffusion.transitions import (
    euler_transition,
    extrapolated_rates,
    held_rates_transition,
    remdm_probabilities,
    tau_leaping_transition,
)

Sampler = Callable[..., None]  # (state, *, option=default, ...) -> None


def tweedie(state: SamplerState) -> None:
    """Analytic steps, exact for one position at any number of steps (SEDD, arXiv 2310.16834, theorem 4.2)."""
    for step in range(state.steps):
        sigma, sigma_next = state.sigmas[step], state.sigmas[step + 1]
        reverse = partial(state.graph.reverse_step, codes=state.codes, sigma=sigma, sigma_next=sigma_next)
        transition = guided_transition(state, sigma, step / state.steps, reverse)
        state.update(sample_transition(state, transition), sigma_next)
        state.run_callback(step + 1)


def euler(state: SamplerState) -> None:
    """Euler steps of the reverse rates (SEDD, arXiv 2310.16834, equation 18); the last step is analytic."""
    _first_order(state, euler_transition)


def tau_leaping(state: SamplerState) -> None:
    """Tau-leaping: Poisson jumps at rates held fixed over a step (Campbell et al., arXiv 2205.14987); the last is analytic."""
    _first_order(state, tau_leaping_transition)


def _first_order(state: SamplerState, kind: Callable[..., Transition]) -> None:
    """Steps of `kind` over dt dsigma, and an analytic step to sigma = 0 at the end."""
    for step in range(state.steps):
        sigma, sigma_next = state.sigmas[step], state.sigmas[step + 1]
        if step < state.steps - 1:
            leap = float((state.times[step] - state.times[step + 1]) * state.dsigmas[step])
            reverse = partial(kind, state.graph, codes=state.codes, sigma=sigma, leap=leap)
        else:
            reverse = partial(state.graph.reverse_step, codes=state.codes, sigma=sigma, sigma_next=sigma_next)
        transition = guided_transition(state, sigma, step / state.steps, reverse)
        state.update(sample_transition(state, transition), sigma_next)
        state.run_callback(step + 1)


def predictor_corrector(state: SamplerState, *, corrections: int = 1, churn: float = 0.5) -> None:
    """Analytic steps, each followed by a little noise forward and an analytic step back (Campbell et al., arXiv 2205.14987).

    The way forward and back keeps the marginal at the step's noise, and lets codes be changed again.

    Args:
        corrections: how many after each step but the last; each costs a network call.
        churn: fraction of the step's noise that is added again.
    """
    if corrections < 0 or not 0 < churn <= 1:
        raise UserError(f"wanted corrections at least 0 and churn in (0, 1], got {corrections} and {churn}")
    graph = state.graph
    for step in range(state.steps):
        sigma, low = state.sigmas[step], state.sigmas[step + 1]
        reverse = partial(graph.reverse_step, codes=state.codes, sigma=sigma, sigma_next=low)
        state.update(sample_transition(state, guided_transition(state, sigma, step / state.steps, reverse)), low)
        high = low + churn * (sigma - low)
        for _ in range(corrections if step < state.steps - 1 else 0):
            added = (high - low).expand(len(state.codes)).to(state.codes.device)
            noised = graph.noised(state.codes, added, torch.stack([state.uniform(), state.uniform()]))
            state.update(noised, high)
            back = partial(graph.reverse_step, codes=state.codes, sigma=high, sigma_next=low)
            state.update(sample_transition(state, guided_transition(state, high, (step + 1) / state.steps, back)), low)
        state.run_callback(step + 1)


def theta_trapezoidal(state: SamplerState, *, theta: float = 0.4) -> None:
    """Second-order steps on the absorbing graph, two network calls each (Ren et al., arXiv 2502.00234, algorithm 2).

    A leap over theta dt at the rates mu, then one over (1 - theta) dt at (c1 mu* - c2 mu)+, c1 = 1 / (2 theta (1 - theta)),
    c2 = c1 - 1. Where codes depend so strongly on each other that the cut at 0 acts, the order is lost. On the uniform
    graph it is of first order: positions that have just jumped take mu* alone, and guidance mixes p(x0).

    Args:
        theta: where in the step the rates are computed again, in (0, 0.5].
    """
    if not 0 < theta <= 0.5:
        raise UserError(f"theta must lie in (0, 0.5], got {theta}")
    for step in range(state.steps - 1):
        t, t_next, progress = state.times[step], state.times[step + 1], step / state.steps
        sigma_middle, dsigma_middle = state.noise(t - theta * (t - t_next))
        first = _rates_per_time(state, state.sigmas[step], state.dsigmas[step], progress)
        before = state.codes
        leap = held_rates_transition(first, float(theta * (t - t_next)))
        state.update(sample_transition(state, leap), sigma_middle)
        second = _rates_per_time(state, sigma_middle, dsigma_middle, progress)
        stayed = (state.codes == before)[..., None]
        rates = torch.where(stayed, extrapolated_rates(first, second, theta), second)
        leap = held_rates_transition(rates, float((1 - theta) * (t - t_next)))
        state.update(sample_transition(state, leap), state.sigmas[step + 1])
        state.run_callback(step + 1)
    sigma, end = state.sigmas[state.steps - 1], state.sigmas[state.steps]
    reverse = partial(state.graph.reverse_step, codes=state.codes, sigma=sigma, sigma_next=end)
    transition = guided_transition(state, sigma, (state.steps - 1) / state.steps, reverse)
    state.update(sample_transition(state, transition), end)
    state.run_callback(state.steps)


def _rates_per_time(state: SamplerState, sigma: Tensor, dsigma: Tensor, progress: float) -> Tensor:
    """Reverse rates `(B, ..., V)` per unit of t at the state."""
    rates = state.graph.reverse_rates(state.log_p0(sigma, progress), state.codes, sigma)
    return float(dsigma) * rates.exit_rate[..., None] * rates.log_next.double().exp()


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
            softmax of minus the log-probability that each was sampled with (this does not keep the marginals).
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


SAMPLERS: dict[str, Sampler] = {
    "tweedie": tweedie,
    "euler": euler,
    "tau_leaping": tau_leaping,
    "predictor_corrector": predictor_corrector,
    "theta_trapezoidal": theta_trapezoidal,
    "first_hitting": first_hitting,
    "informed_corrector": informed_corrector,
    "remdm": remdm,
    "maskgit": maskgit,
    "halton": halton,
    "entropy_bound": entropy_bound,
}
NEEDS_MASK = ("first_hitting", "informed_corrector", "remdm", "maskgit", "halton", "entropy_bound")


def samplers_for(graph: Graph) -> list[str]:
    """Names of the samplers that work on `graph`."""
    return [name for name in SAMPLERS if graph.is_masked or name not in NEEDS_MASK]


def get_sampler(name: str, options: Mapping[str, Scalar], graph: Graph) -> partial[None]:
    """The sampler called `name` with its `options`, which may be texts.

    Raises:
        UserError: an unknown name, a sampler that needs a mask state on a graph without one, unknown or unusable options.
    """
    if name not in SAMPLERS:
        raise UserError(f"unknown sampler '{name}': known are {', '.join(SAMPLERS)}")
    if name not in samplers_for(graph):
        raise UserError(
            f"sampler '{name}' needs the absorbing graph and this model has the {graph.name} one: "
            f"use {', '.join(samplers_for(graph))}"
        )
    return partial(SAMPLERS[name], **parse_options(name, options))


def sampler_options(name: str) -> dict[str, Scalar]:
    """The options of sampler `name` and their defaults."""
    parameters = inspect.signature(SAMPLERS[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def parse_options(name: str, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Options of sampler `name`, each in its default's type. Raises UserError for unknown ones and wrong types."""
    known = sampler_options(name)
    parsed: dict[str, Scalar] = {}
    for key, value in given.items():
        if key not in known:
            raise UserError(f"sampler '{name}' has no option '{key}': it has {', '.join(known) or 'none'}")
        try:
            parsed[key] = PARSERS[type(known[key])](str(value))
        except ValueError as error:
            raise UserError(f"option {key} of sampler '{name}' {error}") from error
    return parsed
