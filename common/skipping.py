"""Steps whose numbers are not finite: left out, counted, and after too many in a row the end of the run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from common.checkpoint import newest_checkpoint


def all_finite(accelerator: Accelerator, values: Iterable[Tensor]) -> bool:
    """Whether scalars are finite in every process, so that all take a step or none does. All processes call this together."""
    finite = torch.isfinite(torch.stack([value.detach().float() for value in values])).all().float()
    return bool(accelerator.reduce(finite, "mean") == 1)


def guarded_step(
    accelerator: Accelerator,
    network: nn.Module,
    optimizer: AcceleratedOptimizer,
    loss: Tensor,
    metrics: dict[str, Tensor],
    grad_clip: float,
    norm_name: str = "grad_norm",
) -> bool:
    """Backward pass, clipping and step; False where something was not finite in any process, and nothing moved.

    Args:
        metrics: the parts of the loss, asked too; the gradient's norm joins them as `norm_name`.
    """
    if not all_finite(accelerator, [loss, *metrics.values()]):
        return False  # in every process alike: one that went on alone would wait for the others
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(network.parameters(), grad_clip)
    metrics[norm_name] = norm
    moved = bool(torch.isfinite(norm))
    if moved or accelerator.scaler is not None:  # whose scaler leaves such a step out itself, and lowers its scale
        optimizer.step()
        moved = not optimizer.step_was_skipped
    optimizer.zero_grad(set_to_none=True)
    return moved


class SkippedSteps:
    """Counts skipped steps of a stage.

    Attributes:
        total: since the start of this process.
        running: since the last step that was taken; none of them changed the weights.
    """

    def __init__(self, stage: str, output_dir: Path, limit: int) -> None:
        self.stage, self.output_dir, self.limit = stage, output_dir, limit
        self.total = self.running = 0

    def count(self, skipped: bool) -> None:
        """Note one step."""
        self.running = self.running + 1 if skipped else 0
        self.total += skipped

    @property
    def too_many(self) -> bool:
        """Whether the limit of steps in a row is reached."""
        return self.running >= self.limit

    def newest(self) -> int:
        """Step of the newest checkpoint, 0 without one."""
        checkpoint = newest_checkpoint(self.output_dir, self.stage)
        return int(checkpoint.name.removeprefix("step-")) if checkpoint else 0

    def message(self, step: int) -> str:
        """One line that says what happened up to `step`, where the last good checkpoint is, and what may help."""
        checkpoint = newest_checkpoint(self.output_dir, self.stage)
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "not one step was taken"
        return (
            f"{self.stage}: loss or gradient was not finite in {self.running} steps running, up to step {step}; {kept}: "
            f"lower {self.stage}.train.learning_rate or use mixed_precision=no, and run the command again"
        )
