"""What every sampler shares: one random stream a picture, counted network calls, guidance, known codes.

A sampler in sampler.py is a function of a `Walk`; it decides which positions change when, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.errors import UserError
from diffusion.graph import Absorbing, Graph
from diffusion.guidance import Guidance, Network, guided_log_probability
from diffusion.noise import Noise

NO_GUIDANCE = Guidance()
MAX_STEPS = 100_000
STEP_GRIDS = ("uniform", "cosine", "loglinear")
StepCallback = Callable[[int, Tensor], Tensor | None]
Draw = Callable[[], Tensor]


class Projection(Protocol):
    """Sets known codes back in: `(codes (B, ...), sigma (B,), draw) -> codes`; `draw()` gives uniforms `(B, ...)`."""

    def __call__(self, codes: Tensor, sigma: Tensor, draw: Draw) -> Tensor: ...


def known_codes(graph: Graph, known: Tensor, hidden: Tensor) -> Projection:
    """A projection for inpainting: codes outside `hidden` (bool, broadcastable) are those of `known`.

    On the absorbing graph they stay visible from first to last. On the uniform graph they enter every step noised to
    that step's level, as the network saw them in training, and clean at the end.
    """

    def project(codes: Tensor, sigma: Tensor, draw: Draw) -> Tensor:
        given = known.expand_as(codes)
        if not isinstance(graph, Absorbing) and bool((sigma > 0).any()):
            given = graph.noised(given, sigma, torch.stack([draw(), draw()]))
        return torch.where(hidden, codes, given)

    return project


def step_times(steps: int, grid: str) -> Tensor:
    """Times `(steps + 1,)` from 1 down to 0, float64.

    uniform: equal steps. cosine: cos(pi i / 2 n), small steps first, large ones last (MaskGIT, arXiv 2202.04200).
    loglinear: equal ratios from 1 to 1 / n^2, then 0: small steps where the noise is nearly gone.

    Raises:
        UserError: steps below 1, an unknown grid.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise UserError(f"steps must be at least 1 and at most {MAX_STEPS}, got {steps}")
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if grid == "uniform":
        return 1 - share
    if grid == "cosine":
        times = torch.cos(share * math.pi / 2)
    elif grid == "loglinear":
        times = torch.exp(-2 * math.log(max(steps, 2)) * share * steps / max(steps - 1, 1))
    else:
        raise UserError(f"unknown step grid '{grid}': known are {', '.join(STEP_GRIDS)}")
    times[0], times[-1] = 1.0, 0.0
    return times


def sharpen(log_probability: Tensor, temperature: float, top_p: float) -> Tensor:
    """Log-probabilities `(..., V)` at `temperature`, cut to the fewest codes that hold `top_p` of the mass (nucleus)."""
    if temperature != 1:
        log_probability = torch.log_softmax(log_probability / temperature, dim=-1)
    if top_p < 1:
        ordered, order = log_probability.sort(dim=-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        cut = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        log_probability = torch.log_softmax(log_probability.masked_fill(cut, -torch.inf), dim=-1)
    return log_probability


def draw_categorical(log_probability: Tensor, uniform: Tensor) -> Tensor:
    """Draw codes `(...)` from normalised `log_probability` `(..., V)` by inverting the cumulative sum at `uniform`."""
    cumulative = log_probability.double().exp().cumsum(dim=-1)
    codes = torch.searchsorted(cumulative, (uniform * cumulative[..., -1])[..., None], right=True).squeeze(-1)
    return codes.clamp(max=log_probability.shape[-1] - 1)


@dataclass
class Walk:
    """From the graph's limit back to codes: the setting of one run of a sampler over one batch, and its state.

    Args:
        network: log p(x0), see `Network`.
        graph, noise: the forward process.
        shape: of the codes of one picture, for example (h, w) or (h, w, G).
        generators: one CPU generator a picture; row i draws only from `generators[i]`, so a picture depends neither on
            the batch it is drawn in nor on the device.
        steps, grid: number of reverse steps and how they are spaced, see `step_times`.
        guidance, temperature, top_p: what happens to the network's answer, in this order.
        project: sets known codes back in, before every network call and at the end.
        on_step: called with (steps done, codes) after every step; codes that it returns take their place.
        time_free: whether the network's answer depends on the codes alone. A picture none of whose codes changed is then
            not asked about again (RADD, arXiv 2406.03736, section 3.3), and the batch is compacted to those that did.
        origin: codes `(B, *shape)` to set out from, noised to time `begin`, rather than from the limit (SDEdit,
            arXiv 2108.01073, with this graph's noise).
        begin: time in (0, 1] at which the walk begins; all `steps` lie below it.

    Attributes:
        codes: `(B, *shape)`.
        calls: network calls `(B,)` so far, for each picture; the two of guidance count as one.

    Raises:
        UserError: steps below 1, an unknown grid, temperature not above 0, top_p or begin outside (0, 1].
    """

    network: Network
    graph: Graph
    noise: Noise
    shape: tuple[int, ...]
    generators: Sequence[torch.Generator]
    steps: int
    grid: str = "uniform"
    guidance: Guidance = NO_GUIDANCE
    temperature: float = 1.0
    top_p: float = 1.0
    device: torch.device | str = "cpu"
    project: Projection | None = None
    on_step: StepCallback | None = None
    time_free: bool = False
    origin: Tensor | None = None
    begin: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"temperature must be above 0, got {self.temperature}: 1 leaves the model's own")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p must lie in (0, 1], got {self.top_p}: 1 is off")
        if not 0 < self.begin <= 1:
            raise UserError(f"a walk begins at a time in (0, 1], got {self.begin}")
        self.times = self.begin * step_times(self.steps, self.grid)
        self.sigmas, self.dsigmas = self.noise(self.times)
        self.sigmas[-1] = 0.0  # schedules that end above 0 are denoised to the end all the same
        self.calls = torch.zeros(len(self.generators), dtype=torch.int64)
        self._seen: Tensor | None = None
        self._answer: Tensor | None = None
        if self.origin is None:
            self.codes = self.graph.limit_from(self.uniform())
        else:
            level = self.sigmas[0].expand(len(self.generators)).to(self.device)
            self.codes = self.graph.noised(self.origin, level, torch.stack([self.uniform(), self.uniform()]))
        self.set(self.codes, self.sigmas[0])

    def uniform(self) -> Tensor:
        """Float64 uniforms `(B, *shape)`, each row from its own stream. float32 ones would lose the tail below 2^-24."""
        rows = [torch.rand(self.shape, generator=generator, dtype=torch.float64) for generator in self.generators]
        return torch.stack(rows).to(self.device)

    def gumbel(self) -> Tensor:
        """Standard Gumbel noise `(B, *shape)`, float64."""
        return -torch.log(-torch.log(self.uniform().clamp(min=1e-300)))

    def set(self, codes: Tensor, sigma: Tensor) -> None:
        """Make `codes` the state at noise `sigma` (scalar), known ones set back in."""
        if self.project is not None:
            codes = self.project(codes, sigma.expand(len(codes)).to(codes.device), self.uniform)
        self.codes = codes

    def finish_step(self, done: int) -> None:
        """Tell whoever watches that `done` steps are done, and take the codes that the watcher puts in their place."""
        if self.on_step is not None and (changed := self.on_step(done, self.codes)) is not None:
            self.set(changed, self.sigmas[min(done, self.steps)])

    def ask(self, sigma: Tensor) -> Tensor:
        """The network's log p(x0) of the state, before guidance: `(K, B, ..., V)`, K = 2 with guidance.

        Args:
            sigma: noise of the state, a scalar or `(B,)`.

        Raises:
            ValueError: the network answered with NaN or infinities.
        """
        changed = torch.arange(len(self.codes), device=self.codes.device)
        if self.time_free and self._seen is not None:
            changed = (self.codes != self._seen).flatten(1).any(1).nonzero().squeeze(-1)
        if len(changed):
            level = sigma.expand(len(self.codes)).to(self.codes.device)[changed]
            answer = self.network(self.codes[changed], level, changed)
            if not bool(torch.isfinite(answer.amax(-1)).all()):
                raise ValueError("the network answered with NaN or infinite logits: the model is broken")
            if self._answer is None or len(changed) == len(self.codes):
                self._answer = answer
            else:
                self._answer = self._answer.index_copy(1, changed, answer)
            self._seen = self.codes
            self.calls[changed.cpu()] += 1
        assert self._answer is not None
        return self._answer

    def log_clean(self, sigma: Tensor, progress: float) -> Tensor:
        """log p(x0) `(B, ..., V)` of the state for the absorbing graph: guided, at temperature, cut to top-p.

        Args:
            progress: share of the steps that are done.
        """
        answer, scale = self.ask(sigma), self.guidance.at(progress)
        mixed = answer[0] if len(answer) == 1 else guided_log_probability(answer[0], answer[1], scale)
        return sharpen(mixed, self.temperature, self.top_p)

    @property
    def masked(self) -> Tensor:
        """Which positions `(B, ...)` hold the mask state."""
        return self.codes == self.graph.mask_state
