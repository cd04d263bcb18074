"""Score entropy for discrete diffusion, its cross-entropy form, an output head that never holds all logits, and the
likelihood bound.

Formulas are for each position. Training sums over a picture's codes, multiplies by dsigma(t) and means over the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.graph import Absorbing, Graph, at_least_float32, check_codes, check_sigma, per_position


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
    if isinstance(graph, Absorbing):
        log_ratio = per_position(-torch.log(torch.expm1(sigma)), noised)  # ln r at y = x0; r = 0 elsewhere
        ratio = torch.exp(log_ratio)
        at_clean = log_score.gather(-1, clean[..., None]).squeeze(-1)
        value = torch.exp(log_score).sum(-1) - ratio * at_clean + ratio * (log_ratio - 1)
        return torch.where(noised == graph.mask_state, value, 0.0)

    size = graph.vocab_size
    log_score = log_score.scatter(-1, noised[..., None], 0.0)
    r = per_position(graph.ratio(sigma), noised)
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
    if not isinstance(graph, Absorbing):
        return score_entropy(graph, graph.log_score(logits, noised, sigma), sigma, noised, clean)
    masked = noised == graph.mask_state
    return torch.where(masked, cross_entropy(logits, clean) / per_position(torch.expm1(sigma), clean), 0.0)


def graph_log_score(graph: Graph, output: Tensor, codes: Tensor, sigma: Tensor, raw_score: bool) -> Tensor:
    """The log-score `(B, ..., S)` that a network's output `(B, ..., V)` stands for: SEDD's own where `raw_score`, else x0's."""
    if raw_score and not isinstance(graph, Absorbing):
        return graph.raw_log_score(output, codes)
    return graph.log_score(graph.posterior(at_least_float32(output), codes, sigma), codes, sigma)


def cross_entropy(logits: Tensor, clean: Tensor) -> Tensor:
    """-ln p(x0) `(B, ...)` of logits `(B, ..., V)`, in float32 or better."""
    logits = at_least_float32(logits)
    return F.cross_entropy(logits.flatten(0, -2), clean.flatten(), reduction="none").view(clean.shape)


class _HeadCrossEntropy(torch.autograd.Function):
    """sum_i w_i CE(x_i W^T + b, y_i), a chunk of positions at a time; gradients are made on the way, logits are not kept.

    The gradient of a sum with known weights needs no second pass: d logits = w (softmax - onehot) is at hand right
    after the loss, so that each chunk's logits live only within its turn, and nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, weights: Tensor, chunk: int
    ) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            matrix = weight.to(features.dtype)
            total = features.new_zeros((), dtype=torch.float32)
            wanted = any(ctx.needs_input_grad[:3])
            grad_features = torch.empty_like(features) if wanted else None
            grad_weight = torch.zeros_like(weight) if wanted else None
            grad_bias = torch.zeros_like(bias) if wanted else None
            for start in range(0, len(features), chunk):
                part = slice(start, start + chunk)
                logits = (features[part] @ matrix.T).float().add_(bias)  # (chunk, V)
                log_total = logits.logsumexp(-1)
                at_target = logits.gather(-1, targets[part, None]).squeeze(-1)
                total += (weights[part] * (log_total - at_target)).sum()
                if grad_features is None or grad_weight is None or grad_bias is None:
                    continue
                slope = logits.sub_(log_total[:, None]).exp_()  # softmax, in place
                slope.scatter_add_(-1, targets[part, None], slope.new_full((len(slope), 1), -1.0))
                slope.mul_(weights[part, None])
                grad_bias += slope.sum(0)
                slope = slope.to(features.dtype)
                grad_features[part] = slope @ matrix
                if grad_weight.dtype == slope.dtype:
                    grad_weight.addmm_(slope.T, features[part])
                else:
                    grad_weight += slope.T @ features[part]
        ctx.save_for_backward(grad_features, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grads
        features, weight, bias = ctx.saved_tensors
        return features * scale.to(features.dtype), weight * scale, bias * scale, None, None, None


def head_cross_entropy(
    features: Tensor, head: nn.Linear, targets: Tensor, weights: Tensor, chunk_elements: int = 1 << 23
) -> Tensor:
    """sum over positions of `weights` times the cross entropy of `head(features)`, without ever holding all logits.

    Only positions of weight above 0 are computed, `chunk_elements` logits at a time.

    Args:
        features: `(..., D)`; targets: codes `(...)`; weights: float `(...)`, at least 0, without gradient.
        head: D to V, with bias.

    Returns:
        A scalar in float32; its gradient reaches `features` and the parameters of `head`.
    """
    chosen = weights.flatten().nonzero().squeeze(-1)
    chunk = max(1, chunk_elements // head.out_features)
    return _HeadCrossEntropy.apply(
        features.flatten(0, -2)[chosen],
        head.weight,
        head.bias,
        targets.flatten()[chosen],
        weights.flatten()[chosen].float(),
        chunk,
    )


class Bound(NamedTuple):
    """An upper bound on -ln p(codes), in nats a code, and its standard error over pictures."""

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
) -> Bound:
    """Upper bound on -ln p(codes | label) (SEDD, arXiv 2310.16834, theorem 3.6), the same for every noise schedule.

    The integral of score entropy over sigma is taken in u = 1 - e^-sigma, the share of codes that the noise has reached:
    d sigma = du / (1 - u). For the absorbing graph that is E over u ~ U(0, 1) of (masked cross entropy) / u, lambda-DCE
    (RADD, arXiv 2406.03736, equation 3.9), and nothing is left at the end. For the uniform graph u goes to
    1 - e^-sigma_max, and the divergence of what is left from the limit is added. Stratified: each picture is seen once
    in each of `points` equal strata of u.

    Args:
        model: `(codes, sigma, labels) -> output (..., V)`, on the device of `codes`; see `graph_log_score`.
        codes: clean codes `(N, ...)`; labels: `(N,)`.
        generator: a CPU generator.
        raw_score: whether the output is SEDD's log-score rather than logits of p(x0) (uniform graph only).
    """
    top = 1.0 if isinstance(graph, Absorbing) else -torch.expm1(torch.tensor(-sigma_max, dtype=torch.float64)).item()
    bounds = []
    for clean, label in zip(codes.split(batch_size), labels.split(batch_size), strict=True):
        total = torch.zeros(len(clean), dtype=torch.float64)
        for stratum in range(points):
            u = (stratum + torch.rand(len(clean), generator=generator, dtype=torch.float64)) / points * top
            u = u.clamp(1e-6, 1 - 1e-9)
            sigma = -torch.log1p(-u)
            uniforms = torch.rand((2, *clean.shape), generator=generator, dtype=torch.float64)
            noised = graph.noised(clean, sigma.to(clean.device), uniforms)
            output = model(noised, sigma.float().to(clean.device), label).float()
            sigma = sigma.to(clean.device)
            if isinstance(graph, Absorbing):
                masked = noised == graph.mask_state
                nats = torch.where(masked, cross_entropy(output, clean), 0.0).flatten(1).sum(1).double().cpu() / u
            else:
                log_score = graph_log_score(graph, output.double(), noised, sigma, raw_score)
                nats = score_entropy(graph, log_score, sigma, noised, clean).flatten(1).sum(1).double().cpu() / (1 - u)
            total += nats * top / points
        bounds.append(total / clean[0].numel())
    per_picture = torch.cat(bounds)
    if not isinstance(graph, Absorbing):
        per_picture += graph.limit_divergence(torch.tensor([sigma_max], dtype=torch.float64))
    error = per_picture.std().item() / len(per_picture) ** 0.5 if len(per_picture) > 1 else float("nan")
    return Bound(per_picture.mean().item(), error)
