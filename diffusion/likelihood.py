"""The likelihood bound of a prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion.graph import Graph
from diffusion.loss import cross_entropy, score_entropy


class Bound(NamedTuple):
    """An upper bound on -ln p(codes), in nats a code, and its standard error over images."""

    nats: float
    standard_error: float


@torch.no_grad()
def likelihood_bound(
    model: nn.Module,
    graph: Graph,
    codes: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    points: int = 16,
    batch_size: int = 100,
    raw_score: bool = False,
    sigma_max: float = 12.0,
    progress: Callable[[int], object] | None = None,
) -> Bound:
    """Upper bound on -ln p(codes | label) (SEDD, arXiv 2310.16834, theorem 3.6), the same for every noise schedule.

    The integral of score entropy over sigma is taken in u = 1 - e^-sigma, the fraction of codes that noise has hit:
    d sigma = du / (1 - u). For the absorbing graph that is E over u ~ U(0, 1) of (masked cross entropy) / u, lambda-DCE
    (RADD, arXiv 2406.03736, equation 3.9), and the integral ends there. For the uniform graph u goes to
    1 - e^-sigma_max, and the divergence from the limit there is added. Stratified: each image is used once
    in each of `points` equal strata of u.

    Args:
        model: `(codes, sigma, labels) -> output (..., V)`, on the device of `codes`; see `Graph.network_log_score`.
        codes: clean codes `(N, ...)`; labels: `(N,)`.
        generator: a CPU generator.
        raw_score: whether the output is a log-score rather than logits of p(x0) (uniform graph only).
        progress: called after each network call with its number of noised images; N times `points` in all.
    """
    top = 1.0 if graph.is_masked else -torch.expm1(torch.tensor(-sigma_max, dtype=torch.float64)).item()
    bounds = []
    for clean, label in zip(torch.split(codes, batch_size), torch.split(labels, batch_size), strict=True):
        total = torch.zeros(len(clean), dtype=torch.float64)
        for stratum in range(points):
            u = (stratum + torch.rand(len(clean), generator=generator, dtype=torch.float64)) / points * top
            u = u.clamp(1e-6, 1 - 1e-9)
            sigma = -torch.log1p(-u)
            uniforms = torch.rand((2, *clean.shape), generator=generator, dtype=torch.float64)
            noised = graph.noised(clean, sigma.to(clean.device), uniforms)
            output = model(noised, sigma.float().to(clean.device), label).float()
            sigma = sigma.to(clean.device)
            if graph.is_masked:
                masked = noised == graph.mask_state
                nats = torch.where(masked, cross_entropy(output, clean), 0.0).flatten(1).sum(1).double().cpu() / u
            else:
                log_score = graph.network_log_score(output.double(), noised, sigma, raw_score)
                nats = score_entropy(graph, log_score, sigma, noised, clean).flatten(1).sum(1).double().cpu() / (1 - u)
            total += nats * top / points
            if progress is not None:
                progress(len(clean))
        bounds.append(total / clean[0].numel())
    per_image = torch.cat(bounds)
    if not graph.is_masked:
        per_image += graph.limit_divergence(torch.tensor([sigma_max], dtype=torch.float64))
    error = per_image.std().item() / len(per_image) ** 0.5 if len(per_image) > 1 else float("nan")
    return Bound(per_image.mean().item(), error)
