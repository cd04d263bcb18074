"""Progress of a request in network calls."""

from __future__ import annotations

from collections.abc import Callable

# (network calls done, network calls in all) -> ignored. Calls are those of whole batches; the two of guidance, and those of
# the windows of a large grid, count as one. The last report has both equal; the second may change where batches do.
ProgressCallback = Callable[[int, int], object]


class CallProgress:
    """Reports the network calls of a request that is sampled in batches.

    A sampler may need fewer calls than planned; the count then moves on to the planned one at the end of the batch.

    Args:
        report: None reports nothing.
        calls: planned calls of one batch, see `diffusion.sampler.planned_calls`.
    """

    def __init__(self, report: ProgressCallback | None, calls: int) -> None:
        self.report, self.calls = report, calls
        self.finished = self.done = self.total = 0

    def begin_batch(self, batches_left: int) -> None:
        """A batch begins, or begins again with another size; `batches_left` counts it."""
        self.done = self.finished * self.calls
        self.total = self.done + batches_left * self.calls
        self._tell()

    def count_call(self) -> None:
        """The network was called."""
        self.done = min(self.done + 1, (self.finished + 1) * self.calls)
        self._tell()

    def end_batch(self) -> None:
        """The batch is sampled."""
        self.finished += 1
        if self.done != self.finished * self.calls:
            self.done = self.finished * self.calls
            self._tell()

    def _tell(self) -> None:
        if self.report is not None:
            self.report(self.done, self.total)


def part_of(report: ProgressCallback | None, before: int, total: int) -> ProgressCallback | None:
    """A callback for one of several requests: `before` calls were done before it, of `total` in all."""
    if report is None:
        return None
    return lambda done, _: report(before + done, total)
