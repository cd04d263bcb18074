"""What all samplers share: the state of one run over a batch, time steps, random numbers, guidance, inpainting.

A sampler in sampler.py is a loop over a `SamplerState`; it decides which positions change when, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.errors import UserError
from diffusion.forward_process import Transition
from diffusion.graph import Graph
from diffusion.guidance import Adjustment, guidance_scale_at
from diffusion.noise import Noise
from diffusion.settings import MAX_STEPS, TIME_SPACINGS, SamplingSettings

__all__ = [
    "SamplerState", "SamplingSettings", "guided_transition", "inpainting_projection",
    "masked_counts", "rank", "sample_categorical", "sample_transition", "step_times", "unmask",
]  # fmt: skip

# (codes (B, ...), sigma (B,), rows (B,): which samples of the batch these are) -> log p(x0) (K, B, ..., V)
Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
StepCallback = Callable[[int, Tensor], Tensor | None]  # (steps done, codes) -> codes to continue from, or None
Uniforms = Callable[[], Tensor]


class Projection(Protocol):
    """Puts known codes back: `(codes (B, ...), sigma (B,), uniform) -> codes`; `uniform()` gives uniforms `(B, ...)`."""

    def __call__(self, codes: Tensor, sigma: Tensor, uniform: Uniforms) -> Tensor: ...


def inpainting_projection(graph: Graph, known: Tensor, hidden: Tensor) -> Projection:
    """A projection that keeps the codes `known` everywhere outside `hidden` (bool, broadcastable).

    On the absorbing graph they stay visible from the first step to the last. On the uniform graph they enter every step
    noised to that step's level, as the network saw codes in training, and clean at the end.
    """

    def project(codes: Tensor, sigma: Tensor, uniform: Uniforms) -> Tensor:
        kept = known.expand_as(codes)
        if not graph.is_masked and bool((sigma > 0).any()):
            kept = graph.noised(kept, sigma, torch.stack([uniform(), uniform()]))
        return torch.where(hidden, codes, kept)

    return project


def step_times(steps: int, spacing: str) -> Tensor:
    """Times `(steps + 1,)` from 1 down to 0, float64.

    uniform: equal steps. cosine: cos(pi i / 2 n), small steps first, large ones last (MaskGIT, arXiv 2202.04200).
    loglinear: equal ratios from 1 to 1 / n^2, then 0: small steps where the noise is nearly gone.

    Raises:
        UserError: steps outside [1, MAX_STEPS], an unknown spacing.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise UserError(f"steps must be at least 1 and at most {MAX_STEPS}, got {steps}")
    fraction = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if spacing == "uniform":
        return 1 - fraction
    if spacing == "cosine":
        times = torch.cos(fraction * math.pi / 2)
    elif spacing == "loglinear":
        times = torch.exp(-2 * math.log(max(steps, 2)) * fraction * steps / max(steps - 1, 1))
    else:
        raise UserError(f"unknown time spacing '{spacing}': known are {', '.join(TIME_SPACINGS)}")
    times[0], times[-1] = 1.0, 0.0
    return times


def sample_categorical(log_probability: Tensor, uniform: Tensor) -> Tensor:
    """Codes `(...)` from normalised `log_probability` `(..., V)`, by inverting the cumulative sum at `uniform` `(...)`."""
    cumulative = log_probability.double().exp().cumsum(dim=-1)
    codes = torch.searchsorted(cumulative, (uniform * cumulative[..., -1])[..., None], right=True).squeeze(-1)
    return codes.clamp(max=log_probability.shape[-1] - 1)


@dataclass
class SamplerState:
    """State and settings of one reverse-diffusion run over a batch.

    Args:
        predictor: log p(x0), see `Predictor`.
        graph, noise: the forward process.
        shape: of the codes of one sample, for example (h, w) or (h, w, G).
        generators: one CPU generator a sample; row i takes random numbers only from `generators[i]`, so that a sample's
            random numbers depend neither on its batch nor on the device.
        settings: steps, time spacing, guidance, temperature and top-p are read here; sampler and its options by the caller.
        projection: puts known codes back, before every network call and at the end.
        on_call: called after every prediction of the network, also where all samples reuse the cached one.
        callback: called after every step; codes that it returns replace the state.
        time_free: whether the prediction depends on the codes alone. Then unchanged samples reuse the cached prediction
            (RADD, arXiv 2406.03736, section 3.3), and the batch is compacted to the changed ones.
        origin: codes `(B, *shape)` to start from, noised to time `begin`, rather than from the limit (SDEdit,
            arXiv 2108.01073, with this graph's noise).
        begin: time in (0, 1] at which the run begins; all steps lie below it.

    Attributes:
        codes: `(B, *shape)`.
        times, sigmas, dsigmas: `(steps + 1,)`, float64.
        network_calls: calls `(B,)` so far, for each sample; the two of guidance count as one.

    Raises:
        UserError: `begin` outside (0, 1].
    """

    predictor: Predictor
    graph: Graph
    noise: Noise
    shape: tuple[int, ...]
    generators: Sequence[torch.Generator]
    settings: SamplingSettings
    device: torch.device | str = "cpu"
    projection: Projection | None = None
    on_call: Callable[[], object] | None = None
    callback: StepCallback | None = None
    time_free: bool = False
    origin: Tensor | None = None
    begin: float = 1.0

    def __post_init__(self) -> None:
        """Fix the time steps and take the first codes."""
        if not 0 < self.begin <= 1:
            raise UserError(f"sampling begins at a time in (0, 1], got {self.begin}")
        self.steps = self.settings.num_inference_steps
        self.times = self.begin * step_times(self.steps, self.settings.time_spacing)
        self.sigmas, self.dsigmas = self.noise(self.times)
        self.sigmas[-1] = 0.0  # a schedule may end above 0; sampling always ends without noise
        self.network_calls = torch.zeros(len(self.generators), dtype=torch.int64)
        self._seen: Tensor | None = None  # the codes that `_prediction` belongs to
        self._prediction: Tensor | None = None
        if self.origin is None:
            self.codes = self.graph.limit_from(self.uniform())
        else:
            level = self.sigmas[0].expand(len(self.generators)).to(self.device)
            self.codes = self.graph.noised(self.origin, level, torch.stack([self.uniform(), self.uniform()]))
        self.update(self.codes, self.sigmas[0])

    def uniform(self) -> Tensor:
        """Float64 uniforms `(B, *shape)`, each row from its own generator; float32 would lose the tail below 2^-24."""
        rows = [torch.rand(self.shape, generator=generator, dtype=torch.float64) for generator in self.generators]
        return torch.stack(rows).to(self.device)

    def gumbel(self) -> Tensor:
        """Standard Gumbel noise `(B, *shape)`, float64."""
        return -torch.log(-torch.log(self.uniform().clamp(min=1e-300)))

    def update(self, codes: Tensor, sigma: Tensor) -> None:
        """Make `codes` the state at noise `sigma` (scalar), with known codes put back."""
        if self.projection is not None:
            codes = self.projection(codes, sigma.expand(len(codes)).to(codes.device), self.uniform)
        self.codes = codes

    def run_callback(self, done: int) -> None:
        """Call the callback after `done` steps, and continue from the codes that it returns."""
        if self.callback is not None and (changed := self.callback(done, self.codes)) is not None:
            self.update(changed, self.sigmas[min(done, self.steps)])

    def predict(self, sigma: Tensor) -> Tensor:
        """The network's log p(x0) of the state, before guidance: `(K, B, ..., V)`, K = 2 with guidance.

        Args:
            sigma: noise of the state, a scalar or `(B,)`.

        Raises:
            ValueError: the network gives NaN or infinities.
        """
        changed = torch.arange(len(self.codes), device=self.codes.device)
        if self.time_free and self._seen is not None:
            changed = (self.codes != self._seen).flatten(1).any(1).nonzero().squeeze(-1)
        if len(changed):
            level = sigma.expand(len(self.codes)).to(self.codes.device)[changed]
            prediction = self.predictor(self.codes[changed], level, changed)
            if not bool(torch.isfinite(prediction.amax(-1)).all()):
                raise ValueError("the network gives NaN or infinite logits: the model is broken")
            if self._prediction is None or len(changed) == len(self.codes):
                self._prediction = prediction
            else:
                self._prediction = self._prediction.index_copy(1, changed, prediction)
            self._seen = self.codes
            self.network_calls[changed.cpu()] += 1
        if self.on_call is not None:
            self.on_call()
        assert self._prediction is not None
        return self._prediction

    def log_p0(self, sigma: Tensor, progress: float) -> Tensor:
        """Log p(x0) `(B, ..., V)` of the state: guided, at temperature, cut to top-p.

        Args:
            sigma: noise of the state, a scalar or `(B,)`.
            progress: fraction of the steps that are done.
        """
        return self.adjustment(progress).log_p0(self.predict(sigma))

    def adjustment(self, progress: float) -> Adjustment:
        """Guidance scale, temperature and top-p after a fraction `progress` of the steps."""
        settings = self.settings
        return Adjustment(guidance_scale_at(settings, progress), settings.temperature, settings.top_p)

    @property
    def masked(self) -> Tensor:
        """Which positions `(B, ...)` hold the mask state."""
        return self.codes == self.graph.mask_state


def guided_transition(
    state: SamplerState, sigma: Tensor, progress: float, step: Callable[[Tensor], Transition]
) -> Transition:
    """`step` of the network's log p(x0) at noise `sigma`, with guidance where the graph takes it, temperature and top-p."""
    return state.graph.guide(state.predict(sigma), state.codes, state.adjustment(progress), step)


def sample_transition(state: SamplerState, transition: Transition) -> Tensor:
    """The next codes: first whether each position leaves its state, then, where it does, which code it shows."""
    whether, which = state.uniform() < transition.exit_prob, state.uniform()
    codes = state.codes.clone()
    codes[whether] = sample_categorical(transition.log_next[whether], which[whether])
    return codes


def unmask(state: SamplerState, chosen: Tensor, log_p0: Tensor, sigma_next: Tensor) -> None:
    """Show sampled codes at the positions `chosen` (bool `(B, ...)`)."""
    which, codes = state.uniform(), state.codes.clone()
    codes[chosen] = sample_categorical(log_p0[chosen], which[chosen])
    state.update(codes, sigma_next)


def masked_counts(state: SamplerState) -> list[Tensor]:
    """How many positions `(B,)` stay masked after each step, by the schedule's mask ratio; the last is 0."""
    hidden = state.masked.flatten(1).sum(1)
    ratio = -torch.expm1(-state.sigmas)
    return [(hidden * (ratio[i + 1] / ratio[0]).item()).floor().long() for i in range(state.steps)]


def rank(value: Tensor, among: Tensor) -> Tensor:
    """Rank `(B, ...)` of each position by falling `value`, positions outside `among` last."""
    order = value.masked_fill(~among, -torch.inf).flatten(1).argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return ranks.view(value.shape)
