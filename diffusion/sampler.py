"""Samplers: each is one loop from the graph's limit back to codes.

A sampler takes a `SamplerState` (predictor, graph, settings, one random generator a sample) and its own options by keyword,
and leaves the result in `state.codes`. What a step does, as probabilities, stands in transitions.py. Those here work on both
graphs; those that need the mask state of the absorbing graph are in unmasking.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from common.errors import UserError
from common.scalars import PARSERS, Scalar
from diffusion.forward_process import Transition
from diffusion.graph import Graph
from diffusion.sampling import SamplerState, guided_transition, sample_transition
from diffusion.settings import SamplingSettings
from diffusion.transitions import (
    euler_transition,
    extrapolated_rates,
    held_rates_transition,
    tau_leaping_transition,
)
from diffusion.unmasking import entropy_bound, first_hitting, halton, informed_corrector, maskgit, remdm

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
    """Euler steps of the reverse rates (SEDD, arXiv 2310.16834, equation 18); the last step is analytic.

    On the absorbing graph with loglinear noise this is `tweedie`, because the rate times the step is the analytic
    probability. With cosine noise dsigma(1) = 0, so the first step changes nothing.
    """
    _first_order(state, euler_transition)


def tau_leaping(state: SamplerState) -> None:
    """Tau-leaping: Poisson jumps at rates held fixed over a step (Campbell et al., arXiv 2205.14987); the last is analytic.

    With cosine noise dsigma(1) = 0, so the first step changes nothing.
    """
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

    The way forward and back keeps the marginal at the step's noise, and lets codes be changed again. That matters for
    inpainting on the uniform graph: known codes enter each step newly noised, and the other codes adapt to them only
    while they can change (RePaint, arXiv 2201.09865).

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
        theta: where in the step the rates are computed again, in [0.001, 0.5]; rates closer together do not differ.
    """
    if not 0.001 <= theta <= 0.5:
        raise UserError(f"theta must lie in [0.001, 0.5], got {theta}")
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
# What a table of samplers should say besides the first line of the docstring.
NOTES = {
    "euler": "equals tweedie on the absorbing graph with loglinear noise; with cosine noise the first step changes nothing",
    "tau_leaping": "with cosine noise the first step changes nothing",
    "predictor_corrector": "default of inpaint and outpaint on the uniform graph, with corrections=12 and churn=1",
    "remdm": "mode=confidence does not keep the schedule's mask ratio: 0.82 where it says 0.50 (two codes, 8 steps)",
}
NEEDS_MASK = ("first_hitting", "informed_corrector", "remdm", "maskgit", "halton", "entropy_bound")


def samplers_for(graph: Graph) -> list[str]:
    """Names of the samplers that work on `graph`."""
    return [name for name in SAMPLERS if graph.is_masked or name not in NEEDS_MASK]


def planned_calls(settings: SamplingSettings, steps: int | None = None) -> int:
    """The most network calls of a batch; fewer where a sampler finds nothing to do or predictions are reused.

    Args:
        steps: by default those of the settings.
    """
    name, steps = settings.sampler, settings.num_inference_steps if steps is None else steps
    if name == "predictor_corrector":
        options = sampler_options(name) | parse_options(name, settings.sampler_options)
        return steps + (steps - 1) * int(options["corrections"])
    return {"theta_trapezoidal": 2 * steps - 1, "informed_corrector": 2 * steps}.get(name, steps)


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
