"""Metrics of a run: one JSON line per record, experiment trackers, and the loss curves as an image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator
from matplotlib.figure import Figure

from common.files import replace_file


class MetricsLog:
    """Writes metrics to <output_dir>/logs/<stage>.jsonl and to the trackers.

    Args:
        trackers: names that accelerate knows, such as tensorboard.
        keep: whether the file keeps its records; a resumed run keeps them, a new run starts an empty file.
    """

    def __init__(
        self, output_dir: Path, stage: str, accelerator: Accelerator, trackers: Sequence[str], keep: bool
    ) -> None:
        self.accelerator = accelerator
        self.file = output_dir / "logs" / f"{stage}.jsonl"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if trackers:
            accelerator.init_trackers(f"smalti-{stage}")
        if accelerator.is_main_process and not keep:
            self.file.unlink(missing_ok=True)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record `metrics` after `step` steps. Only the main process writes."""
        self.accelerator.log(dict(metrics), step=step)
        if self.accelerator.is_main_process:
            with self.file.open("a", encoding="utf-8") as file:  # opened each time: a crash loses no record
                file.write(json.dumps({"step": step, **metrics}) + "\n")


def plot_curves(logs: Path, out: Path) -> None:
    """Plot every `loss*` series of `logs`/*.jsonl, one panel per stage, into the PNG file `out`."""
    files = sorted(logs.glob("*.jsonl"))
    figure = Figure(figsize=(6 * len(files), 4))
    panels = figure.subplots(1, len(files), squeeze=False)
    for panel, file in zip(panels[0], files, strict=True):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for name in sorted({name for row in rows for name in row if name.startswith("loss")}):
            points = [(row["step"], row[name]) for row in rows if name in row]
            panel.plot(*zip(*points, strict=True), label=name, linewidth=1)
        panel.set(title=file.stem, xlabel="step")
        panel.legend(fontsize=8)
    figure.tight_layout()
    replace_file(out, lambda part: figure.savefig(part, format="png", dpi=100))
