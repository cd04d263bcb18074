"""The output head with its cross entropy in one operation, so that the logits of all positions never exist at once."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


class _HeadCrossEntropy(torch.autograd.Function):
    """sum_i w_i CE(x_i W^T + b, y_i), in chunks of positions; gradients are computed in the same pass, logits are not kept.

    The gradient of a sum with known weights needs no second pass: d logits = w (softmax - onehot) is known right after the
    loss. So the logits of a chunk live only while it is processed, and nothing is computed twice.
    """

    @staticmethod
    def forward(  # autograd gives contexts no useful type
        ctx: Any,  # noqa: ANN401
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        weights: Tensor,
        chunk: int,
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
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (scale,) = grads
        features, weight, bias = ctx.saved_tensors
        return features * scale.to(features.dtype), weight * scale, bias * scale, None, None, None


def head_cross_entropy(
    features: Tensor, head: nn.Linear, targets: Tensor, weights: Tensor, chunk_elements: int = 1 << 23
) -> Tensor:
    """sum over positions of `weights` times the cross entropy of `head(features)`, which never holds all logits.

    Only positions of weight above 0 are computed, `chunk_elements` logits at a time.

    Args:
        features: `(..., D)`; targets: codes `(...)`; weights: float `(...)`, at least 0, without gradient.
        head: D to V, with bias.

    Returns:
        A scalar in float32; its gradient reaches `features` and the parameters of `head`.
    """
    chosen = weights.flatten().nonzero().squeeze(-1)
    chunk = max(1, chunk_elements // head.out_features)
    total = _HeadCrossEntropy.apply(
        features.flatten(0, -2)[chosen],
        head.weight,
        head.bias,
        targets.flatten()[chosen],
        weights.flatten()[chosen].float(),
        chunk,
    )
    return cast(Tensor, total)
