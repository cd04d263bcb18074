"""Stops a run whose losses or gradients are not finite for too many steps in a row."""

from __future__ import annotations

from pathlib import Path

from training.checkpoint import newest_checkpoint, step_of


class NonFiniteGuard:
    """Counts the skipped steps of a stage.

    Attributes:
        total: since the start of this process.
        running: since the last step that was taken; none of them changed the weights.
    """

    def __init__(self, stage: str, output_dir: Path, limit: int) -> None:
        self.stage, self.output_dir, self.limit = stage, output_dir, limit
        self.total = self.running = 0

    def count(self, skipped: bool) -> None:
        """Count one step."""
        self.running = self.running + 1 if skipped else 0
        self.total += skipped

    @property
    def too_many(self) -> bool:
        """Whether the limit of steps in a row is reached."""
        return self.running >= self.limit

    def newest(self) -> int:
        """Step of the newest checkpoint, 0 without one."""
        checkpoint = newest_checkpoint(self.output_dir, self.stage)
        return step_of(checkpoint) if checkpoint else 0

    def message(self, step: int) -> str:
        """One line that says what happened up to `step`, where the last good checkpoint is, and what may help."""
        checkpoint = newest_checkpoint(self.output_dir, self.stage)
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "not one step was taken"
        return (
            f"{self.stage}: loss or gradient was not finite in {self.running} steps in a row, up to step {step}; {kept}: "
            f"lower {self.stage}.train.learning_rate or use mixed_precision=no, and run the command again"
        )
