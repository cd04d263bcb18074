"""Score entropy for discrete diffusion, and its cross-entropy form.

Formulas are for each position. Training sums over the codes of an image, multiplies by dsigma(t) and takes the batch mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.graph import Graph, at_least_float32, check_codes, check_sigma, per_position
from diffusion.uniform import uniform_ratio


def score_entropy(graph: Graph, log_score: Tensor, sigma: Tensor, noised: Tensor, clean: Tensor) -> Tensor:
    """Score entropy of each position, not yet times dsigma (SEDD, arXiv 2310.16834, definition 3.1 and equation 5).

    sum over y != x of Q(y -> x) [s(y) - r(y) ln s(y) + K(r(y))] with r(y) = p(y | x0) / p(x | x0), K(a) = a (ln a - 1).
    For the absorbing graph a masked position gives
        sum_y exp(l_y) - l_x0 / (e^sigma - 1) + K(1 / (e^sigma - 1)),
    and a visible one 0. For the uniform graph, with r = (e^sigma - 1) / (e^sigma - 1 + V),
        x = x0:  (1 / V) sum_{y != x} [e^{l_y} - r l_y + K(r)]
        x != x0: (1 / V) [sum_{y != x} (e^{l_y} - l_y) - (1 / r - 1) l_x0 + K(1 / r) - (V - 2)].

    Args:
        log_score: l = log s, `(B, ..., S)`; the mask's own entry is not read, nor is the one at x.
        sigma: total noise `(B,)`, above 0.
        noised, clean: codes x and x0 `(B, ...)`.

    Returns:
        `(B, ...)`, at least 0, float32 or better.

    Raises:
        ValueError: codes outside the graph's states, sigma negative.
    """
    check_codes(noised, graph.num_states)
    check_codes(clean, graph.vocab_size)
    check_sigma(sigma)
    log_score = at_least_float32(log_score)[..., : graph.vocab_size]
    if graph.is_masked:
        log_ratio = per_position(-torch.log(torch.expm1(sigma)), noised)  # ln r at y = x0; r = 0 elsewhere
        ratio = torch.exp(log_ratio)
        at_clean = log_score.gather(-1, clean[..., None]).squeeze(-1)
        value = torch.exp(log_score).sum(-1) - ratio * at_clean + ratio * (log_ratio - 1)
        return torch.where(noised == graph.mask_state, value, 0.0)

    size = graph.vocab_size
    log_score = log_score.scatter(-1, noised[..., None], 0.0)
    r = per_position(uniform_ratio(sigma, size), noised)
    at_clean = log_score.gather(-1, clean[..., None]).squeeze(-1)
    sum_score, sum_log = torch.exp(log_score).sum(-1) - 1, log_score.sum(-1)  # over y != x
    kept = sum_score - r * sum_log + (size - 1) * r * (torch.log(r) - 1)
    moved = sum_score - sum_log - (1 / r - 1) * at_clean + (-torch.log(r) - 1) / r - (size - 2)
    return torch.where(noised == clean, kept, moved) / size


def score_entropy_from_logits(graph: Graph, logits: Tensor, sigma: Tensor, noised: Tensor, clean: Tensor) -> Tensor:
    """`score_entropy` of the score that logits of p(x0 | noised codes) stand for.

    For the absorbing graph a weighted cross entropy (RADD, arXiv 2406.03736, theorem 2): -ln p(x0) / (e^sigma - 1) at
    masked positions and 0 elsewhere, the same number without the dense score.

    Args:
        logits: over real codes `(B, ..., V)`; the other arguments are those of `score_entropy`.
    """
    if not graph.is_masked:
        return score_entropy(graph, graph.log_score(logits, noised, sigma), sigma, noised, clean)
    masked = noised == graph.mask_state
    return torch.where(masked, cross_entropy(logits, clean) / per_position(torch.expm1(sigma), clean), 0.0)


def cross_entropy(logits: Tensor, clean: Tensor) -> Tensor:
    """-ln p(x0) `(B, ...)` of logits `(B, ..., V)`, in float32 or better."""
    logits = at_least_float32(logits)
    return F.cross_entropy(logits.flatten(0, -2), clean.flatten(), reduction="none").view(clean.shape)
