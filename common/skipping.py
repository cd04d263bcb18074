"""Steps whose numbers are not finite: left out, counted, and after too many in a row the end of the run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from common.checkpoint import newest_checkpoint
from common.errors import UserError


def all_finite(accelerator: Accelerator, values: Iterable[Tensor]) -> bool:
    """Whether scalars are finite in every process, so that all take a step or none does. All processes call this together."""
    finite = torch.isfinite(torch.stack([value.detach().float() for value in values])).all().float()
    return bool(accelerator.reduce(finite, "mean") == 1)


class SkippedSteps:
    """Counts skipped steps of a stage.

    Attributes:
        total: since the start of this process.
        running: since the last step that was taken.
    """

    def __init__(self, stage: str, output_dir: Path, limit: int) -> None:
        self.stage, self.output_dir, self.limit = stage, output_dir, limit
        self.total = self.running = 0

    def count(self, skipped: bool, step: int) -> None:
        """Note one step. Raises UserError at `limit` in a row, naming the last checkpoint: none of them changed the weights."""
        self.running = self.running + 1 if skipped else 0
        self.total += skipped
        if self.running >= self.limit:
            checkpoint = newest_checkpoint(self.output_dir, self.stage)
            kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint was written yet"
            raise UserError(
                f"{self.stage}: loss or gradient was not finite in {self.running} steps running, up to step {step}; {kept}: "
                f"lower {self.stage}.train.learning_rate or use mixed_precision=no, and run the command again"
            )
