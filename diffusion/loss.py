"""Score entropy for discrete diffusion, its cross-entropy form, and the likelihood bound.

Formulas are for each position. Training sums over a picture's codes, multiplies by dsigma(t) and means over the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.graph import Absorbing, per_position


def score_entropy(graph: Absorbing, log_score: Tensor, sigma: Tensor, noised: Tensor, clean: Tensor) -> Tensor:
    """Score entropy of each position, not yet times dsigma (SEDD, arXiv 2310.16834, definition 3.1 and equation 5).

    For the absorbing graph a masked position gives, with K(a) = a (ln a - 1),
        sum_y exp(l_y) - l_x0 / (e^sigma - 1) + K(1 / (e^sigma - 1)),
    and a visible one gives 0.

    Args:
        log_score: l = log s, `(B, ..., S)`; the mask's own entry is not read.
        sigma: total noise `(B,)`, above 0.
        noised, clean: codes `(B, ...)`.

    Returns:
        `(B, ...)`, at least 0, float32 or better.
    """
    log_score = log_score.to(torch.promote_types(log_score.dtype, torch.float32))[..., : graph.vocab_size]
    log_ratio = per_position(-torch.log(torch.expm1(sigma)), noised)  # ln r at y = x0; r = 0 elsewhere
    ratio = torch.exp(log_ratio)
    at_clean = log_score.gather(-1, clean[..., None]).squeeze(-1)
    value = torch.exp(log_score).sum(-1) - ratio * at_clean + ratio * (log_ratio - 1)
    return torch.where(noised == graph.mask_state, value, 0.0)


def score_entropy_from_logits(graph: Absorbing, logits: Tensor, sigma: Tensor, noised: Tensor, clean: Tensor) -> Tensor:
    """`score_entropy` of the normalised score as a weighted cross entropy (RADD, arXiv 2406.03736, theorem 2).

    -ln p(x0) / (e^sigma - 1) at masked positions and 0 elsewhere: the same number, without the dense score.

    Args:
        logits: over real codes `(B, ..., V)`; the other arguments are those of `score_entropy`.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    cross_entropy = F.cross_entropy(logits.flatten(0, -2), clean.flatten(), reduction="none").view(clean.shape)
    masked = noised == graph.mask_state
    return torch.where(masked, cross_entropy / per_position(torch.expm1(sigma), clean), 0.0)


@torch.no_grad()
def likelihood_bound(
    model: nn.Module,
    graph: Absorbing,
    codes: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    points: int = 16,
    batch_size: int = 100,
) -> tuple[float, float]:
    """Upper bound on -ln p(codes | label), in nats a code, and its standard error over pictures.

    Integrates in the mask rate: E over lambda ~ U(0, 1) of (masked cross entropy) / lambda, lambda-DCE (RADD,
    arXiv 2406.03736, equation 3.9). Stratified: each picture is seen once in each of `points` equal strata of lambda.
    The chain's limit is all masked, so the KL term at the end is 0.

    Args:
        model: `(codes, sigma, labels) -> logits`, on the device of `codes`.
        codes: clean codes `(N, ...)`; labels: `(N,)`.
        generator: a CPU generator.
    """
    bounds = []
    for clean, label in zip(codes.split(batch_size), labels.split(batch_size), strict=True):
        total = torch.zeros(len(clean), dtype=torch.float64)
        for stratum in range(points):
            rate = (stratum + torch.rand(len(clean), generator=generator, dtype=torch.float64)) / points
            rate = rate.clamp(min=1e-6)
            drawn = torch.rand(clean.shape, generator=generator, dtype=torch.float64)
            masked = (drawn < per_position(rate, drawn)).to(clean.device)
            sigma = -torch.log1p(-rate).float().to(clean.device)
            noised = torch.where(masked, graph.mask_state, clean)
            logits = model(noised, sigma, label).float()
            cross_entropy = F.cross_entropy(logits.flatten(0, -2), clean.flatten(), reduction="none").view(clean.shape)
            nats = torch.where(masked, cross_entropy, 0.0).flatten(1).sum(1).double().cpu()
            total += nats / rate / points
        bounds.append(total / clean[0].numel())
    per_picture = torch.cat(bounds)
    standard_error = per_picture.std().item() / len(per_picture) ** 0.5 if len(per_picture) > 1 else float("nan")
    return per_picture.mean().item(), standard_error
