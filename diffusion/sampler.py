"""Samplers: plain functions that walk from the graph's limit back to codes.

One random stream a picture: row i draws only from `generators[i]`, CPU generators, so a picture depends neither on the
batch it is drawn in nor on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from common.errors import UserError
from diffusion.graph import Absorbing
from diffusion.guidance import Predictor
from diffusion.noise import Noise

Projection = Callable[[Tensor], Tensor]
StepCallback = Callable[[int, Tensor], None]


class Sampler(Protocol):
    """The one signature of all samplers.

    Args:
        predict: `(codes, sigma (B,)) -> log p(x0) (B, ..., V)`, guidance included.
        graph, noise: the forward process.
        shape: of the codes of one picture, for example (h, w).
        generators: one CPU generator a picture.
        steps: number of reverse steps, at least 1.
        project: sets known codes back in, before every network call and at the end.
        on_step: called with (steps done, codes) after every step.

    Returns:
        codes `(B, *shape)` in [0, V), no mask state left.
    """

    def __call__(
        self,
        predict: Predictor,
        graph: Absorbing,
        noise: Noise,
        shape: tuple[int, ...],
        generators: Sequence[torch.Generator],
        steps: int,
        device: torch.device | str = "cpu",
        project: Projection | None = None,
        on_step: StepCallback | None = None,
    ) -> Tensor: ...


def draw_uniform(shape: tuple[int, ...], generators: Sequence[torch.Generator], device: torch.device | str) -> Tensor:
    """Float64 uniforms `(B, *shape)`, each row from its own stream. float32 ones would lose the tail below 2^-24."""
    rows = [torch.rand(shape, generator=generator, dtype=torch.float64) for generator in generators]
    return torch.stack(rows).to(device)


def draw_categorical(log_probability: Tensor, uniform: Tensor) -> Tensor:
    """Draw codes `(...)` from normalised `log_probability` `(..., V)` by inverting the cumulative sum at `uniform`."""
    cumulative = log_probability.double().exp().cumsum(dim=-1)
    codes = torch.searchsorted(cumulative, (uniform * cumulative[..., -1])[..., None], right=True).squeeze(-1)
    return codes.clamp(max=log_probability.shape[-1] - 1)


def unmask_probability(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Chance that a position masked at `sigma` is unmasked at `sigma_next` < `sigma`, both float64:
    (e^-sigma_next - e^-sigma) / (1 - e^-sigma)."""
    return (torch.exp(-sigma_next) - torch.exp(-sigma)) / -torch.expm1(-sigma)


@torch.no_grad()
def tweedie(
    predict: Predictor,
    graph: Absorbing,
    noise: Noise,
    shape: tuple[int, ...],
    generators: Sequence[torch.Generator],
    steps: int,
    device: torch.device | str = "cpu",
    project: Projection | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Tweedie tau-leaping, the analytic reverse step (SEDD, arXiv 2310.16834, theorem 4.2), for the absorbing graph.

    With the normalised score the staggered score times the transition says: a masked position is unmasked with
    `unmask_probability`, and then shows code y with probability p(y). "Whether" and "which" are drawn apart, because one
    joint draw in float32 loses rare events. The last step goes to sigma = 0 and drops the mask. Exact for one
    position with the exact score, at any number of steps. Arguments are `Sampler`'s.

    Raises:
        ValueError: steps below 1, or a network that answers with NaN.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    batch = len(generators)
    codes = graph.limit((batch, *shape), device=device)
    if project is not None:
        codes = project(codes)
    sigmas, _ = noise(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    sigmas[-1] = 0.0
    for step in range(steps):
        sigma, sigma_next = sigmas[step], sigmas[step + 1]
        log_probability = predict(codes, sigma.float().expand(batch).to(device))
        if not torch.isfinite(log_probability.amax(-1)).all():
            raise ValueError("the network answered with NaN or infinite logits: the model is broken")
        last = step == steps - 1
        unmask = 1.0 if last else unmask_probability(sigma, sigma_next).item()
        whether = draw_uniform(shape, generators, device) < unmask
        which = draw_categorical(log_probability, draw_uniform(shape, generators, device))
        codes = torch.where((codes == graph.mask_state) & whether, which, codes)
        if project is not None:
            codes = project(codes)
        if on_step is not None:
            on_step(step + 1, codes)
    return codes


SAMPLERS: dict[str, Sampler] = {"tweedie": tweedie}


def get_sampler(name: str) -> Sampler:
    """The sampler called `name`. Raises UserError for an unknown name."""
    if name not in SAMPLERS:
        raise UserError(f"unknown sampler '{name}': known are {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def known_codes(known: Tensor, hidden: Tensor) -> Projection:
    """A projection for inpainting: codes outside `hidden` (bool, broadcastable) always are those of `known`."""

    def project(codes: Tensor) -> Tensor:
        return torch.where(hidden, codes, known)

    return project
