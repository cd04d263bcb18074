"""Decides when a run stops because its losses or gradients are not finite."""

from __future__ import annotations

from pathlib import Path


class NonFiniteGuard:
    """Counts the steps that a stage skipped because a loss or a gradient was not finite.

    Args:
        limit: skipped steps in a row after which the run must stop.

    Attributes:
        total: skipped steps since the start of this process.
        in_a_row: skipped steps since the last step that changed the weights.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = self.in_a_row = 0

    def count(self, skipped: bool) -> None:
        """Count one step."""
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        self.total += skipped

    @property
    def limit_reached(self) -> bool:
        """Whether the run must stop."""
        return self.in_a_row >= self.limit

    def message(self, stage: str, step: int, checkpoint: Path | None) -> str:
        """One line for the user: what happened up to `step`, the last good checkpoint, and what may help."""
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "no step succeeded"
        return (
            f"{stage}: loss or gradient was not finite in {self.in_a_row} steps in a row, up to step {step}; {kept}: "
            f"lower {stage}.train.learning_rate or set {stage}.train.mixed_precision=no, and run the command again"
        )
