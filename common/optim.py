"""Optimizer steps that leave out losses and gradients that are not finite, and the moving average of weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Moving average with decay min(decay, (1 + n) / (10 + n)) after n updates, so that early steps are forgotten.

    Buffers are copied, not averaged: the quantizer keeps its codebook there, and that is an average already.
    """

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        n = float(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(model, multi_avg_fn=average, use_buffers=False)


def all_finite(accelerator: Accelerator, values: Iterable[Tensor]) -> bool:
    """Whether scalars are finite in every process, so that all take a step or none does. All processes call this together."""
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
    """Backward pass, gradient clipping and step; False where something was not finite in any process, and nothing moved.

    Args:
        metrics: the parts of the loss, checked too; the gradient norm joins them as `norm_name`.
    """
    if not all_finite(accelerator, [loss, *metrics.values()]):
        return False  # in every process alike: one that went on alone would wait for the others
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(network.parameters(), grad_clip)
    metrics[norm_name] = norm
    moved = bool(torch.isfinite(norm))
    if moved or accelerator.scaler is not None:  # a scaler skips such a step itself, and lowers its scale
        optimizer.step()
        moved = not optimizer.step_was_skipped
    optimizer.zero_grad(set_to_none=True)
    return moved
