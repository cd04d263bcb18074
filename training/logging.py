"""Metrics of a run: one JSON line a record, experiment trackers, and the loss curves as an image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator

from common.files import replace_file


class MetricsLog:
    """Writes <output_dir>/logs/<stage>.jsonl and to the trackers.

    Args:
        trackers: names that accelerate knows, such as tensorboard.
        continued: whether the records of an earlier process are kept.
    """

    def __init__(
        self, output_dir: Path, stage: str, accelerator: Accelerator, trackers: Sequence[str], continued: bool
    ) -> None:
        self.accelerator, self.output_dir = accelerator, output_dir
        self.file = output_dir / "logs" / f"{stage}.jsonl"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if trackers:
            accelerator.init_trackers(f"smalti-{stage}")
        if accelerator.is_main_process and not continued:
            self.file.unlink(missing_ok=True)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record `metrics` at `step`. All processes call this together; the main one writes."""
        self.accelerator.log(dict(metrics), step=step)
        if self.accelerator.is_main_process:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")

    def plot_curves(self) -> None:
        """Plot the loss curves of all stages into <output_dir>/curves.png."""
        plot_curves(self.file.parent, self.output_dir / "curves.png")


def plot_curves(logs: Path, out: Path) -> None:
    """Plot every `loss*` series of `logs`/*.jsonl, one panel a stage, into the PNG `out`."""
    import matplotlib  # noqa: PLC0415 - takes a second, and is needed once a run

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    files = sorted(logs.glob("*.jsonl"))
    figure, panels = plt.subplots(1, len(files), figsize=(6 * len(files), 4), squeeze=False)
    for panel, file in zip(panels[0], files, strict=True):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for name in sorted({name for row in rows for name in row if name.startswith("loss")}):
            points = [(row["step"], row[name]) for row in rows if name in row]
            panel.plot(*zip(*points, strict=True), label=name, linewidth=1)
        panel.set(title=file.stem, xlabel="step")
        panel.legend(fontsize=8)
    figure.tight_layout()
    replace_file(out, lambda part: figure.savefig(part, format="png", dpi=100))
    plt.close(figure)
