"""CallBar: a progress bar for requests that are sampled: network calls done, network calls in all, time left."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tqdm import tqdm

from diffusion.progress import ProgressCallback


class CallBar:
    """A bar on stderr over the network calls of requests that are sampled one after the other.

    Args:
        name: stands before the bar.
        requests: how many there are; the number of calls in all is exact where they take equally many.
        hidden: shows nothing, as in all processes but the first.
    """

    def __init__(self, name: str, requests: int = 1, hidden: bool = False) -> None:
        self.left = requests
        self.before = 0  # calls of the finished requests
        # The delay hides the bar until the first report, which says how many calls there are.
        self.bar = tqdm(desc=name, unit="call", disable=hidden, delay=1e-9)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def next_request(self) -> ProgressCallback:
        """The `progress` of the next request."""
        before, left = self.before, self.left
        self.left -= 1

        def report(done: int, total: int) -> None:
            self.before = before + done
            if self.bar.total != before + total * left:
                self.bar.total = before + total * left
                self.bar.refresh()
            self.bar.update(self.before - self.bar.n)

        return report

    def skip_request(self) -> None:
        """The next request need not be sampled."""
        self.left -= 1
