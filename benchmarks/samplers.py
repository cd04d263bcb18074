"""Every sampler at several numbers of steps on the digits model: calls, speed, Frechet distance, accuracy; a table and a plot.

    python benchmarks/samplers.py --model runs/mnist --out docs/samplers

writes docs/samplers.md, docs/samplers.json and docs/samplers.png. Pictures are drawn with the same seeds for all.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.digits import train_reader
from common.features import EfficientNetFeatures
from common.files import write_text
from common.metrics import frechet_distance
from diffusion.graph import Absorbing
from diffusion.pipeline import ImageGenerator
from diffusion.settings import SamplingSettings
from diffusion.sampler import NEEDS_MASK, SAMPLERS
from images.dataset import DataConfig, load_images

COLUMNS = ("sampler", "steps", "network_calls", "pictures_per_second", "frechet_distance", "accuracy")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| sampler | steps | calls | pictures/s | Frechet | accuracy |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['sampler']} | {row['steps']} | {row['network_calls']:.1f} | {row['pictures_per_second']:.1f} "
            f"| {row['frechet_distance']:.0f} | {row['accuracy']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Frechet distance and accuracy over network calls."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5))
    for index, name in enumerate(dict.fromkeys(row["sampler"] for row in rows)):
        own = [row for row in rows if row["sampler"] == name]
        for axis, score in zip(axes, ("frechet_distance", "accuracy"), strict=True):
            style = {"marker": "os^Dv"[index % 5], "linestyle": ["-", "--", ":"][index % 3], "color": f"C{index}"}
            if index >= 10:  # there are ten colours
                style["color"] = "black"
            axis.plot([row["network_calls"] for row in own], [row[score] for row in own], label=name, **style)
            axis.set(xlabel="network calls a picture", ylabel=score.replace("_", " "), xscale="log")
    axes[0].set_yscale("log")
    axes[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Draw, score, write."""
    parser = argparse.ArgumentParser(description="Samplers side by side on digits.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="files to write, without a suffix")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=SAMPLERS)
    args = parser.parse_args()
    train, held_out = (load_images(DataConfig(), split) for split in ("train", "val"))
    reader = train_reader(train.pixels.float() / 127.5 - 1, train.labels)
    extractor = EfficientNetFeatures()
    generator = ImageGenerator.from_pretrained(args.model)
    with torch.no_grad():
        reference = torch.cat([extractor(batch.float() / 127.5 - 1) for batch in held_out.pixels.split(100)])
    names = [name for name in args.samplers if isinstance(generator.graph, Absorbing) or name not in NEEDS_MASK]
    rows = []
    for name, steps in tqdm([(name, steps) for name in names for steps in args.steps]):
        start = time.perf_counter()
        drawn = generator.generate_codes(args.n, range(10), SamplingSettings(steps, args.guidance, name), args.seed)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            images = generator.tokenizer.decode(drawn.codes).cpu()
            right = reader(images).argmax(1) == torch.arange(args.n) % 10
            features = torch.cat([extractor(batch) for batch in images.split(100)])
        values = (
            name, steps, drawn.network_calls.double().mean().item(), args.n / seconds,
            frechet_distance(features, reference), right.double().mean().item(),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    setting = {name: str(getattr(args, name)) for name in ("model", "n", "guidance", "seed")}
    report = setting | {
        "extractor": extractor.name,
        "reference": "mnist5k held out",
        "graph": generator.graph.name,
        "rows": rows,
    }
    write_text(args.out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    write_text(args.out.with_suffix(".md"), table(rows))
    plot(rows, args.out.with_suffix(".png"))
    print(table(rows))


if __name__ == "__main__":
    main()
