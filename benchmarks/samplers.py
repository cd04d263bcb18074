"""Compare all samplers at several numbers of steps on a digits model: network calls, speed, Frechet distance, accuracy.

    python benchmarks/samplers.py --model runs/mnist --out docs/samplers

writes docs/samplers.md, docs/samplers.json and docs/samplers.png. All samplers use the same seeds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.digit_classifier import correct, load_digits, train_classifier
from benchmarks.image_features import features_of
from common.errors import ArgumentParser, run_cli
from common.features import EfficientNetFeatures
from common.files import replace_file, write_text
from common.metrics import frechet_distance
from diffusion.pipeline import ImageGenerator
from diffusion.sampler import NOTES, SAMPLERS, samplers_for
from diffusion.settings import SamplingSettings


@dataclass(frozen=True)
class Row:
    """One sampler at one number of steps; calls are those for one image, accuracy is that of the digit classifier."""

    sampler: str
    steps: int
    network_calls: float
    images_per_second: float
    frechet_distance: float
    accuracy: float


@dataclass(frozen=True)
class Scorer:
    """The models that score samples."""

    classifier: nn.Module
    extractor: EfficientNetFeatures
    reference: Tensor  # features of the validation images


def measure(generator: ImageGenerator, settings: SamplingSettings, n: int, seed: int, scorer: Scorer) -> Row:
    """Sample `n` digits, labels taken in turn, and score them."""
    start = time.perf_counter()
    sampled = generator.sample_codes(n, range(10), settings, seed)
    seconds = time.perf_counter() - start
    images = generator.tokenizer.decode(sampled.codes).cpu()
    return Row(
        sampler=settings.sampler,
        steps=settings.num_inference_steps,
        network_calls=sampled.network_calls.double().mean().item(),
        images_per_second=n / seconds,
        frechet_distance=frechet_distance(features_of(scorer.extractor, images), scorer.reference),
        accuracy=correct(scorer.classifier, images, sampled.labels).mean().item(),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, and below them what there is to know about the samplers."""
    lines = ["| sampler | steps | calls | images/s | Frechet | accuracy |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.sampler} | {row.steps} | {row.network_calls:.1f} | {row.images_per_second:.1f} "
        f"| {row.frechet_distance:.0f} | {row.accuracy:.3f} |"
        for row in rows
    ]
    notes = [f"- {row}: {NOTES[row]}." for row in dict.fromkeys(row.sampler for row in rows) if row in NOTES]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Frechet distance and accuracy over network calls, one line a sampler."""
    mpl.use("Agg")
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5))
    for index, name in enumerate(dict.fromkeys(row.sampler for row in rows)):
        own = [row for row in rows if row.sampler == name]
        calls = [row.network_calls for row in own]
        style = {"marker": "os^Dv"[index % 5], "linestyle": ["-", "--", ":"][index % 3]}
        color = f"C{index}" if index < 10 else "black"  # matplotlib has ten colors
        axes[0].plot(calls, [row.frechet_distance for row in own], label=name, color=color, **style)
        axes[1].plot(calls, [row.accuracy for row in own], label=name, color=color, **style)
    axes[0].set(xlabel="network calls an image", ylabel="frechet distance", xscale="log", yscale="log")
    axes[1].set(xlabel="network calls an image", ylabel="accuracy", xscale="log")
    axes[1].legend(fontsize=7)
    figure.tight_layout()
    replace_file(path, lambda part: figure.savefig(part, dpi=100, format="png"))
    plt.close(figure)


def main(argv: Sequence[str]) -> None:
    parser = ArgumentParser(prog="samplers.py", description="Compare samplers on a digits model.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="files to write, without a suffix")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=SAMPLERS)
    args = parser.parse_args(argv)
    generator = ImageGenerator.from_pretrained(args.model)
    extractor = EfficientNetFeatures()
    validation, _ = load_digits("val")
    scorer = Scorer(train_classifier(*load_digits("train")), extractor, features_of(extractor, validation))
    fitting = samplers_for(generator.prior.graph)
    pairs = [(name, steps) for name in args.samplers if name in fitting for steps in args.steps]
    rows = []
    for name, steps in tqdm(pairs):
        settings = generator.settings(num_inference_steps=steps, guidance_scale=args.guidance, sampler=name)
        rows.append(measure(generator, settings, args.n, args.seed, scorer))
    report = {name: str(getattr(args, name)) for name in ("model", "n", "guidance", "seed")} | {
        "extractor": extractor.name,
        "reference": "mnist5k validation",
        "graph": generator.prior.graph.name,
        "rows": [asdict(row) for row in rows],
    }
    write_text(args.out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    write_text(args.out.with_suffix(".md"), table(rows))
    plot(rows, args.out.with_suffix(".png"))
    print(table(rows))


if __name__ == "__main__":
    sys.exit(run_cli(main))
