"""Loss curves of a run as one picture."""

from __future__ import annotations

import json
from pathlib import Path


def draw_curves(logs: Path, out: Path) -> None:
    """Draw every `loss*` series of `logs`/*.jsonl, one panel a stage, into the PNG `out`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

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
    beside = out.with_name(f".{out.name}.partial")
    figure.savefig(beside, format="png", dpi=100)
    plt.close(figure)
    beside.replace(out)
