"""Samplers: plain functions that walk from the graph's limit back to codes.

Each takes a `Walk` (network, graph, steps, one random stream a picture) and its own options by keyword, and leaves the
result in `walk.codes`. First the jumps: how likely a position leaves its state in a step, and where to. "Whether" and
"which" are always drawn apart: one joint draw in float32 loses rare events, because its uniforms end at 2^-24.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from diffusion.graph import Absorbing, Graph, per_position
from diffusion.guidance import guided_log_probability
from diffusion.walk import Walk, draw_categorical, sharpen

# The one signature of all samplers: (walk, *, option=default, ...) -> None.
Sampler = Callable[..., None]


class Jump(NamedTuple):
    """What a step does to each position.

    leave: probability `(B, ...)` of leaving the present state; log_target: log-probabilities `(B, ..., V)` of the code
    it then shows. The two apart keep the tail of rare jumps.
    """

    leave: Tensor
    log_target: Tensor

    def rows(self, codes: Tensor, num_states: int) -> Tensor:
        """The same as transition probabilities `(B, ..., S)`."""
        row = F.one_hot(codes, num_states) * (1 - self.leave)[..., None]
        row[..., : self.log_target.shape[-1]] += self.leave[..., None] * self.log_target.exp()
        return row


class Rates(NamedTuple):
    """Reverse jump rates of each position per unit of sigma: their sum `(B, ...)`, and where to `(B, ..., V)`."""

    total: Tensor
    log_target: Tensor


def unmask_probability(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Chance that a position masked at `sigma` is unmasked at `sigma_next` < `sigma`, both float64:
    (e^-sigma_next - e^-sigma) / (1 - e^-sigma)."""
    return (torch.exp(-sigma_next) - torch.exp(-sigma)) / -torch.expm1(-sigma)


def reverse_rates(graph: Graph, log_p: Tensor, codes: Tensor, sigma: Tensor) -> Rates:
    """Q(y, x) s(y) over y != x (SEDD, arXiv 2310.16834, equation 3), of log p(x0) `(B, ..., V)` at noise `sigma`, a scalar."""
    if isinstance(graph, Absorbing):
        return Rates((codes == graph.mask_state).double() / torch.expm1(sigma.double()).item(), log_p)
    score = graph.log_score(log_p.double(), codes, sigma.double().expand(len(codes)).to(codes.device)).exp()
    return _rates(score.scatter(-1, codes[..., None], 0.0) / graph.vocab_size)


def _rates(rates: Tensor) -> Rates:
    total = rates.sum(-1)
    return Rates(total, torch.log(rates / total[..., None].clamp(min=1e-300)))


def tweedie_jump(graph: Graph, log_p: Tensor, codes: Tensor, sigma: Tensor, sigma_next: Tensor) -> Jump:
    """The analytic reverse step from `sigma` to `sigma_next`, scalars (SEDD, arXiv 2310.16834, theorem 4.2).

    Staggered score times transition is Bayes' rule, which is written here without its cancellations: with
    w(x0) = p(x0) / T_sigma(x0 -> x), the next state is y with probability
    T_delta(y -> x) [e^-sigma_next w(y) + (1 - e^-sigma_next) / V sum w] on the uniform graph; on the absorbing one a
    masked position shows y with probability `unmask_probability` times p(y). Exact for one position.
    """
    if isinstance(graph, Absorbing):
        unmask = 1.0 if sigma_next == 0 else unmask_probability(sigma.double(), sigma_next.double()).item()
        return Jump((codes == graph.mask_state).double() * unmask, log_p)
    sigma, sigma_next = (value.double().expand(len(codes)).to(codes.device) for value in (sigma, sigma_next))
    weight = log_p.double().exp() / graph.transition(codes, sigma)  # the transition is symmetric
    survive = per_position(torch.exp(-sigma_next), weight)
    spread = per_position(-torch.expm1(-sigma_next), weight) / graph.vocab_size
    row = graph.transition(codes, sigma - sigma_next) * (survive * weight + spread * weight.sum(-1, keepdim=True))
    rates = _rates(row.scatter(-1, codes[..., None], 0.0))
    return Jump(rates.total.clamp(max=1), rates.log_target)


def euler_jump(graph: Graph, log_p: Tensor, codes: Tensor, sigma: Tensor, leap: float) -> Jump:
    """First-order step over `leap` = dt dsigma: jump with probability leap times the rate, cut at 1 where steps are coarse."""
    rates = reverse_rates(graph, log_p, codes, sigma)
    return Jump((rates.total * leap).clamp(max=1), rates.log_target)


def tau_leaping_jump(graph: Graph, log_p: Tensor, codes: Tensor, sigma: Tensor, leap: float) -> Jump:
    """Rates held fixed over `leap` = dt dsigma (Campbell et al., arXiv 2205.14987, section 4.3).

    A position jumps unless its Poisson count is 0; codes have no order, so that of several jumps one is taken.
    """
    rates = reverse_rates(graph, log_p, codes, sigma)
    return Jump(-torch.expm1(-rates.total * leap), rates.log_target)


def guided_jump(walk: Walk, sigma: Tensor, progress: float, jump: Callable[[Tensor], Jump]) -> Jump:
    """`jump` of the network's answer, with guidance where each graph takes it: see `guided_log_probability`."""
    if isinstance(walk.graph, Absorbing):
        return jump(walk.log_clean(sigma, progress))
    parts = [jump(sharpen(part, walk.temperature, walk.top_p)) for part in walk.ask(sigma)]
    if len(parts) == 1:
        return parts[0]
    rows = [part.rows(walk.codes, walk.graph.num_states).log() for part in parts]
    mixed = guided_log_probability(rows[0], rows[1], walk.guidance.at(progress)).exp()
    rates = _rates(mixed.scatter(-1, walk.codes[..., None], 0.0))
    return Jump(rates.total.clamp(max=1), rates.log_target)


def take(walk: Walk, jump: Jump) -> Tensor:
    """Draw the next codes: first whether each position leaves, then, where it does, which code it shows."""
    whether, which = walk.uniform() < jump.leave, walk.uniform()
    codes = walk.codes.clone()
    codes[whether] = draw_categorical(jump.log_target[whether], which[whether])
    return codes


def _march(
    walk: Walk, step_jump: Callable[[Tensor, int], Jump], corrector: Callable[[int], None] | None = None
) -> None:
    """All steps with `step_jump(log_p, step)`; the last one is always the analytic step to sigma = 0."""
    for step in range(walk.steps):
        sigma, sigma_next = walk.sigmas[step], walk.sigmas[step + 1]
        last = step == walk.steps - 1

        def jump(log_p: Tensor, step: int = step, sigma: Tensor = sigma, last: bool = last) -> Jump:
            if last:
                return tweedie_jump(walk.graph, log_p, walk.codes, sigma, torch.zeros_like(sigma))
            return step_jump(log_p, step)

        walk.set(take(walk, guided_jump(walk, sigma, step / walk.steps, jump)), sigma_next)
        if corrector is not None and not last:
            corrector(step)
        walk.finish_step(step + 1)


def _leap(walk: Walk, step: int) -> float:
    return float((walk.times[step] - walk.times[step + 1]) * walk.dsigmas[step])


def euler(walk: Walk) -> None:
    """Euler steps of the reverse rates (SEDD, arXiv 2310.16834, equation 18)."""
    _march(walk, lambda p, i: euler_jump(walk.graph, p, walk.codes, walk.sigmas[i], _leap(walk, i)))


def tau_leaping(walk: Walk) -> None:
    """Tau-leaping: Poisson jumps at rates held fixed over a step (Campbell et al., arXiv 2205.14987)."""
    _march(walk, lambda p, i: tau_leaping_jump(walk.graph, p, walk.codes, walk.sigmas[i], _leap(walk, i)))


def tweedie(walk: Walk) -> None:
    """Analytic steps, exact for one position at any number of steps (SEDD, arXiv 2310.16834, theorem 4.2)."""
    _march(walk, lambda p, i: tweedie_jump(walk.graph, p, walk.codes, walk.sigmas[i], walk.sigmas[i + 1]))


def predictor_corrector(walk: Walk, *, corrections: int = 1, churn: float = 0.5) -> None:
    """Analytic steps, each followed by a little noise forward and an analytic step back (Campbell et al., arXiv 2205.14987).

    The way forward and back keeps the marginal at the step's noise, and lets codes be changed again.

    Args:
        corrections: how many after each step; each costs a network call.
        churn: share of the step's noise that is put back.
    """
    if corrections < 0 or not 0 < churn <= 1:
        raise UserError(f"wanted corrections at least 0 and churn in (0, 1], got {corrections} and {churn}")

    def correct(step: int) -> None:
        low = walk.sigmas[step + 1]
        high = low + churn * (walk.sigmas[step] - low)
        for _ in range(corrections):
            renoise(walk, low, high)
            progress = (step + 1) / walk.steps
            back = guided_jump(walk, high, progress, lambda p: tweedie_jump(walk.graph, p, walk.codes, high, low))
            walk.set(take(walk, back), low)

    _march(
        walk, lambda p, i: tweedie_jump(walk.graph, p, walk.codes, walk.sigmas[i], walk.sigmas[i + 1]), correct
    )  # fmt: skip


def renoise(walk: Walk, low: Tensor, high: Tensor) -> None:
    """Forward from noise `low` to `high`, scalars."""
    added = (high - low).expand(len(walk.codes)).to(walk.codes.device)
    walk.set(walk.graph.noised(walk.codes, added, torch.stack([walk.uniform(), walk.uniform()])), high)


def theta_trapezoidal(walk: Walk, *, theta: float = 0.4) -> None:
    """Second-order steps on the absorbing graph, two network calls each (Ren et al., arXiv 2502.00234, algorithm 2).

    A leap over theta dt at the rates mu, then one over (1 - theta) dt at (c1 mu* - c2 mu)+, c1 = 1 / (2 theta (1 - theta)),
    c2 = c1 - 1. Where codes depend so strongly on each other that the cut at 0 acts, order is lost. On the uniform graph,
    where it is of first order, positions that have just jumped take mu* alone, and guidance mixes p(x0).

    Args:
        theta: where in the step the rates are looked at again, in (0, 0.5].
    """
    if not 0 < theta <= 0.5:
        raise UserError(f"theta must lie in (0, 0.5], got {theta}")
    for step in range(walk.steps - 1):
        _theta_step(walk, step, theta)
        walk.finish_step(step + 1)
    sigma = walk.sigmas[walk.steps - 1]
    progress = (walk.steps - 1) / walk.steps
    end = guided_jump(
        walk, sigma, progress, lambda p: tweedie_jump(walk.graph, p, walk.codes, sigma, torch.zeros_like(sigma))
    )
    walk.set(take(walk, end), walk.sigmas[-1])
    walk.finish_step(walk.steps)


def _theta_step(walk: Walk, step: int, theta: float) -> None:
    t, t_next = walk.times[step], walk.times[step + 1]
    middle = t - theta * (t - t_next)
    sigma_middle, dsigma_middle = walk.noise(middle)
    sigma = walk.sigmas[step]
    progress = step / walk.steps
    first = rates_per_time(walk, sigma, walk.dsigmas[step], progress)
    before = walk.codes
    walk.set(take(walk, leap_over(first, float(theta * (t - t_next)))), sigma_middle)
    second = rates_per_time(walk, sigma_middle, dsigma_middle, progress)
    stayed = (walk.codes == before)[..., None]
    mixed = torch.where(stayed, extrapolated(first, second, theta), second)
    walk.set(take(walk, leap_over(mixed, float((1 - theta) * (t - t_next)))), walk.sigmas[step + 1])


def rates_per_time(walk: Walk, sigma: Tensor, dsigma: Tensor, progress: float) -> Tensor:
    """Reverse rates `(B, ..., V)` per unit of t at the walk's state."""
    rates = reverse_rates(walk.graph, walk.log_clean(sigma, progress), walk.codes, sigma)
    return float(dsigma) * rates.total[..., None] * rates.log_target.double().exp()


def extrapolated(first: Tensor, second: Tensor, theta: float) -> Tensor:
    """(c1 mu* - c2 mu)+ of the rates at the beginning and in the middle of a step."""
    c1 = 1 / (2 * theta * (1 - theta))
    return (c1 * second - (c1 - 1) * first).clamp(min=0)


def leap_over(rates: Tensor, time: float) -> Jump:
    """The jump of `rates` `(B, ..., V)` per unit of t held fixed over `time`."""
    total, log_target = _rates(rates)
    return Jump(-torch.expm1(-total * time), log_target)


def scheduled(walk: Walk) -> list[Tensor]:
    """How many positions `(B,)` stay masked after each step, by the schedule's masked share; the last is 0."""
    hidden = walk.masked.flatten(1).sum(1)
    share = -torch.expm1(-walk.sigmas)
    return [(hidden * (share[i + 1] / share[0]).item()).floor().long() for i in range(walk.steps)]


def _rank(value: Tensor, among: Tensor) -> Tensor:
    """Rank `(B, ...)` of each position by falling `value`, those outside `among` last."""
    order = value.masked_fill(~among, -torch.inf).flatten(1).argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return ranks.view(value.shape)


def reveal(walk: Walk, chosen: Tensor, log_p: Tensor, sigma_next: Tensor) -> None:
    """Show drawn codes at the positions `chosen` `(B, ...)`."""
    which, codes = walk.uniform(), walk.codes.clone()
    codes[chosen] = draw_categorical(log_p[chosen], which[chosen])
    walk.set(codes, sigma_next)


def first_hitting(walk: Walk) -> None:
    """One position at a time in random order: exact, without a time grid (Zheng et al., arXiv 2409.02908, algorithm 2).

    Where there are fewer steps than positions, several are shown at each call, and it is exact no longer.
    """
    share = (-torch.expm1(-walk.sigmas[0])).expand(len(walk.codes)).clone()
    count = walk.masked.flatten(1).sum(1).cpu()
    for step in range(walk.steps):
        left = (count * (walk.steps - step - 1)) // walk.steps
        clock = walk.uniform().flatten(1).cpu()
        now = walk.masked.flatten(1).sum(1).cpu()
        for hit in range(int((now - left).max())):  # masked share at the next hit: m u^(1 / n)
            remaining = now - hit
            share = torch.where(remaining > left, share * clock[:, hit] ** (1 / remaining.clamp(min=1)), share)
        order = _rank(walk.uniform(), walk.masked)
        chosen = walk.masked & (order < per_position((now - left).to(order.device), order))
        if bool(chosen.any()):
            sigma = -torch.log1p(-share)
            reveal(walk, chosen, walk.log_clean(sigma, step / walk.steps), walk.sigmas[-1])
        walk.finish_step(step + 1)


def maskgit(walk: Walk, *, choice_temperature: float = 4.5) -> None:
    """Draw every masked code, keep the most confident, as many as the schedule says (MaskGIT, arXiv 2202.04200).

    Args:
        choice_temperature: Gumbel noise on the log-confidence, falling with the masked share; 0 is greedy.
    """
    if choice_temperature < 0:
        raise UserError(f"choice_temperature must not be negative, got {choice_temperature}")
    share = -torch.expm1(-walk.sigmas)
    for step, left in enumerate(scheduled(walk)):
        masked = walk.masked
        count = masked.flatten(1).sum(1) - left
        if bool((count > 0).any()):
            log_p = walk.log_clean(walk.sigmas[step], step / walk.steps)
            drawn = draw_categorical(log_p, walk.uniform())
            confidence = log_p.gather(-1, drawn[..., None]).squeeze(-1).double()
            confidence = confidence + choice_temperature * share[step + 1].item() * walk.gumbel()
            chosen = masked & (_rank(confidence, masked) < per_position(count, masked))
            walk.set(torch.where(chosen, drawn, walk.codes), walk.sigmas[-1])
        walk.finish_step(step + 1)


def halton(walk: Walk) -> None:
    """A fixed low-discrepancy order over the grid, as many codes a step as scheduled (Besnier et al., arXiv 2503.17076)."""
    order = halton_order(walk.shape).to(walk.device)
    for step, left in enumerate(scheduled(walk)):
        masked = walk.masked
        count = masked.flatten(1).sum(1) - left
        if bool((count > 0).any()):
            chosen = masked & (_rank(-order.double().expand_as(masked), masked) < per_position(count, masked))
            reveal(walk, chosen, walk.log_clean(walk.sigmas[step], step / walk.steps), walk.sigmas[-1])
        walk.finish_step(step + 1)


def halton_order(shape: tuple[int, ...]) -> Tensor:
    """Rank of each position of `shape` (n,), (h, w) or (h, w, G) in the Halton sequence of bases 2 and 3; a cell's G follow
    each other."""
    rows, columns = (1, shape[0]) if len(shape) == 1 else shape[:2]
    cells: dict[tuple[int, int], int] = {}
    number = 0
    while len(cells) < rows * columns:
        number += 1
        cells.setdefault(
            (int(_radical_inverse(number, 3) * rows), int(_radical_inverse(number, 2) * columns)), len(cells)
        )
    order = torch.tensor([[cells[row, column] for column in range(columns)] for row in range(rows)])
    depth = math.prod(shape[2:])
    return (order[..., None] * depth + torch.arange(depth)).view(shape)


def _radical_inverse(number: int, base: int) -> float:
    """The digits of `number` in `base`, mirrored behind the point."""
    value, place = 0.0, 1 / base
    while number:
        number, digit = divmod(number, base)
        value, place = value + digit * place, place / base
    return value


def entropy_bound(walk: Walk, *, bound: float = 1.0) -> None:
    """Show together the positions of lowest entropy while their joint error is bounded (Ben-Hamu et al., arXiv 2505.24857).

    The most positions whose entropies, but for the largest, sum to at most `bound`; the number of calls adapts, and
    `steps` is the most there are.

    Args:
        bound: in nats; 0 shows one at a time (as far as `steps` allows).
    """
    if bound < 0:
        raise UserError(f"bound must not be negative, got {bound}")
    share = -torch.expm1(-walk.sigmas[0])
    total = walk.masked.flatten(1).sum(1)
    for step in range(walk.steps):
        masked = walk.masked
        now = masked.flatten(1).sum(1)
        if not bool((now > 0).any()):
            break
        part = (now / total.clamp(min=1)).cpu().double().clamp(min=1e-6)
        log_p = walk.log_clean(-torch.log1p(-share * part), step / walk.steps).double()
        entropy = torch.special.entr(log_p.exp()).sum(-1).masked_fill(~masked, torch.inf)
        rising = entropy.flatten(1).sort(dim=1).values
        before = torch.cat([torch.zeros_like(rising[:, :1]), rising.cumsum(1)[:, :-1]], dim=1)
        count = (before <= bound).sum(1)  # sum minus the largest, which comes last
        count = torch.maximum(count, -(-now // (walk.steps - step)))
        chosen = masked & (_rank(-entropy, masked) < per_position(count, masked))
        reveal(walk, chosen, log_p, walk.sigmas[-1])
        walk.finish_step(step + 1)


def remdm(walk: Walk, *, mode: str = "cap", eta: float = 0.05) -> None:
    """Analytic steps that may mask codes again, so that early mistakes are mended (ReMDM, Wang et al., arXiv 2503.00307).

    A visible code is masked with rate r <= r_max = min(1, (1 - a_s) / a_t), a masked one shown with probability
    (a_s - (1 - r) a_t) / (1 - a_t), a = e^-sigma, which keeps the marginals.

    Args:
        mode: cap: r = min(eta, r_max). rescale: r = eta r_max. confidence: r_max shared out over the visible codes by
            softmax of minus the log-probability each was drawn with (marginals then hold only on average).
        eta: in [0, 1]; not read by confidence.
    """
    if mode not in ("cap", "rescale", "confidence") or not 0 <= eta <= 1:
        raise UserError(f"wanted mode cap, rescale or confidence and eta in [0, 1], got {mode} and {eta}")
    confidence = torch.zeros(walk.codes.shape, dtype=torch.float64, device=walk.codes.device)
    for step in range(walk.steps):
        log_p = walk.log_clean(walk.sigmas[step], step / walk.steps)
        masked = walk.masked
        remask, unmask = remdm_rates(walk.sigmas[step], walk.sigmas[step + 1], mode, eta)
        rate = torch.full_like(confidence, remask)
        if mode == "confidence":
            weight = (-confidence).masked_fill(masked, -torch.inf).flatten(1)
            rate = remask * torch.nan_to_num(weight.softmax(1)).view_as(confidence)
        before = walk.codes
        codes = take(walk, Jump(masked.double() * unmask, log_p))
        codes = torch.where(~masked & (walk.uniform() < rate), walk.graph.mask_state, codes)
        walk.set(codes, walk.sigmas[step + 1])
        shown = (before != walk.codes) & ~walk.masked
        drawn = log_p.double().gather(-1, walk.codes.clamp(max=log_p.shape[-1] - 1)[..., None]).squeeze(-1)
        confidence = torch.where(shown, drawn, confidence)
        walk.finish_step(step + 1)


def remdm_rates(sigma: Tensor, sigma_next: Tensor, mode: str, eta: float) -> tuple[float, float]:
    """(probability that a visible code is masked, that a masked one is shown) in a step of `remdm`."""
    now, then = math.exp(-sigma), math.exp(-sigma_next)
    largest = min(1.0, (1 - then) / now)
    remask = {"cap": min(eta, largest), "rescale": eta * largest, "confidence": largest}[mode]
    shown_from = 0.0 if mode == "confidence" else remask  # masked positions have no share of it
    return remask, 1.0 if then == 1 else (then - (1 - shown_from) * now) / (1 - now)


def informed_corrector(walk: Walk, *, redraw: float = 0.1, temperature: float = 2.0) -> None:
    """Analytic steps, each followed by drawing the least confident codes again (Zhao et al., arXiv 2407.21243).

    Confidence is the log-probability a code was drawn with, plus Gumbel noise. The chosen codes are masked and drawn
    again given the others; for one code chosen at random that is a Gibbs step, which keeps the marginal.

    Args:
        redraw: share of the positions that is drawn again, at least one position.
        temperature: of the Gumbel noise; 1, 2, 5, 10 are the paper's best at 16, 32, 64, 128 steps.
    """
    if not 0 < redraw <= 1 or temperature < 0:
        raise UserError(f"wanted redraw in (0, 1] and temperature at least 0, got {redraw} and {temperature}")
    confidence = torch.zeros(walk.codes.shape, dtype=torch.float64, device=walk.codes.device)
    count = max(1, round(redraw * math.prod(walk.shape)))

    def note(log_p: Tensor, fresh: Tensor) -> None:
        drawn = log_p.double().gather(-1, walk.codes.clamp(max=log_p.shape[-1] - 1)[..., None]).squeeze(-1)
        confidence.copy_(torch.where(fresh & ~walk.masked, drawn, confidence))

    for step in range(walk.steps):
        sigma, sigma_next = walk.sigmas[step], walk.sigmas[step + 1]
        log_p, was_masked = walk.log_clean(sigma, step / walk.steps), walk.masked
        walk.set(take(walk, tweedie_jump(walk.graph, log_p, walk.codes, sigma, sigma_next)), sigma_next)
        note(log_p, was_masked)
        chosen = choose_least_confident(walk, confidence, ~walk.masked, count, temperature)
        walk.set(torch.where(chosen, walk.graph.mask_state, walk.codes), sigma_next)
        chosen &= walk.masked  # known codes came back at once
        log_p = walk.log_clean(sigma_next.clamp(min=1e-6), (step + 1) / walk.steps)
        reveal(walk, chosen, log_p, sigma_next)
        note(log_p, chosen)
        walk.finish_step(step + 1)


def choose_least_confident(walk: Walk, confidence: Tensor, visible: Tensor, count: int, temperature: float) -> Tensor:
    """The `count` visible positions `(B, ...)` of lowest confidence plus Gumbel noise; fewer where fewer are visible."""
    noisy = confidence + temperature * walk.gumbel()
    return visible & (_rank(-noisy, visible) < count)


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


def get_sampler(name: str, graph: Graph) -> Sampler:
    """The sampler called `name`. Raises UserError for an unknown name, and for one that `graph` has no mask state for."""
    if name not in SAMPLERS:
        raise UserError(f"unknown sampler '{name}': known are {', '.join(SAMPLERS)}")
    if name in NEEDS_MASK and not isinstance(graph, Absorbing):
        usable = ", ".join(other for other in SAMPLERS if other not in NEEDS_MASK)
        raise UserError(
            f"sampler '{name}' needs the absorbing graph and this model has the {graph.name} one: use {usable}"
        )
    return SAMPLERS[name]


def sampler_options(name: str) -> dict[str, Any]:
    """The options of sampler `name` and their defaults."""
    parameters = inspect.signature(SAMPLERS[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def parse_options(name: str, given: dict[str, str]) -> dict[str, Any]:
    """Options of sampler `name` from text, each in its default's type. Raises UserError for unknown ones and wrong types."""
    known = sampler_options(name) if name in SAMPLERS else {}
    parsed: dict[str, Any] = {}
    for key, text in given.items():
        if key not in known:
            raise UserError(f"sampler '{name}' has no option '{key}': it has {', '.join(known) or 'none'}")
        try:
            parsed[key] = type(known[key])(text)
        except ValueError as error:
            raise UserError(f"option {key} of sampler '{name}' wants a number, got '{text}'") from error
    return parsed
