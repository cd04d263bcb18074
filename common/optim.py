"""Optimizer steps that skip losses and gradients that are not finite, and the moving average of the weights (EMA)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """A moving average of the weights of `model`, with decay min(decay, (1 + n) / (10 + n)) after n updates.

    The decay grows with n, so that the initial weights are soon forgotten. Buffers are copied, not averaged: the codebook
    is a buffer, and is a moving average already.
    """

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        n = float(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(model, multi_avg_fn=average, use_buffers=False)


def all_finite(accelerator: Accelerator, values: Iterable[Tensor]) -> bool:
    """Whether the scalars `values` are finite in every process. All processes call this together and get the same answer."""
    finite = torch.isfinite(torch.stack([value.detach().float() for value in values])).all().float()
    return bool(accelerator.reduce(finite, "mean") == 1)


def optimizer_step(
    accelerator: Accelerator,
    network: nn.Module,
    optimizer: AcceleratedOptimizer,
    loss: Tensor,
    metrics: dict[str, Tensor],
    grad_clip: float,
    norm_name: str = "grad_norm",
) -> bool:
    """Backward pass, gradient clipping and optimizer step.

    Args:
        network: its gradients are clipped together to the norm `grad_clip`.
        metrics: scalars that must be finite too, such as the terms of the loss; the gradient norm is added as `norm_name`.

    Returns:
        True after a step; False where a loss, metric or gradient of any process was not finite. The weights are then
        unchanged, in every process.
    """
    if not all_finite(accelerator, [loss, *metrics.values()]):
        return False  # in every process: the backward pass of one alone would wait for the others
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(network.parameters(), grad_clip)
    metrics[norm_name] = norm
    stepped = bool(torch.isfinite(norm))  # the same in every process: DDP has averaged the gradients
    if stepped or accelerator.scaler is not None:  # a float16 scaler skips such a step itself, and lowers its scale
        optimizer.step()
        stepped = not optimizer.step_was_skipped
    optimizer.zero_grad(set_to_none=True)
    return stepped
