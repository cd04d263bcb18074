"""Quantizer kinds side by side: the same network, pictures, steps and number of codes; scores on held-out pictures.

python benchmarks/quantizers.py --data data/emoji64 [--steps 300] [--kinds vq simvq ...] [--out docs/quantizers]

Writes OUT.json and OUT.md. A run that is already in --runs, of the same kind and steps, is not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.errors import ArgumentParser, UserError, run_cli

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "vq": ["kind=vq"],
    "vq, gradients copied": ["kind=vq", "rotation_trick=false"],
    "vq, Euclidean": ["kind=vq", "cosine=false"],
    "vq, no expiry, no k-means": ["kind=vq", "dead_code_threshold=0", "kmeans_init=false"],
    "simvq": ["kind=simvq"],
    "fsq 8 8 4 4": ["kind=fsq", "levels=[8,8,4,4]"],
    "lfq": ["kind=lfq"],
    "bsq": ["kind=bsq"],
}


def run(command: list[str]) -> float:
    """Run a command to its end and return its seconds; leave with its own message where it fails."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - start


def score(kind: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train one kind for `--steps` without an adversary, score it on val, and return its figures."""
    name = "".join(c if c.isalnum() else "-" for c in kind)
    folder = (args.runs / f"{args.config.stem}-{args.steps}-{name}").resolve()
    data = args.data.resolve()
    seconds = None
    if not (folder / "tokenizer/config.json").is_file():
        seconds = run(
            [
                "train.py", "tokenizer", "--config", str(args.config), f"output_dir={folder}", f"data.path={data}",
                f"tokenizer.train.steps={args.steps}", "tokenizer.loss.adversarial_weight=0",
                *(f"tokenizer.quantizer.{key}" for key in KINDS[kind]),
            ]
        )  # fmt: skip
    report = folder / "report.json"
    run(
        [
            "evaluate.py",
            "--model",
            str(folder),
            "--reference",
            str(data / "val"),
            "--only",
            "reconstruction",
            "--no-download",
            "--out",
            str(report),
        ]
    )
    scores = json.loads(report.read_text(encoding="utf-8"))["reconstruction"]
    return {
        "kind": kind,
        "psnr_db": scores["psnr_db"],
        "ssim": scores["ssim"],
        "frechet": scores["frechet"]["frechet_distance"],
        "codes_used": scores["codes_used"],
        "perplexity": scores["perplexity"],
        "seconds": seconds,
    }


def main(argv: Sequence[str]) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/emoji64-f4.yaml"))
    parser.add_argument("--data", type=Path, required=True, help="a folder that holds train/ and val/")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--runs", type=Path, default=Path("runs/quantizers"))
    parser.add_argument("--out", type=Path, default=Path("docs/quantizers"))
    args = parser.parse_args(argv)
    if not (args.data / "val").is_dir():
        raise UserError(f"{args.data} holds no val/: give --data a folder that holds train/ and val/")
    rows = [score(kind, args) for kind in args.kinds]
    lines = ["| kind | PSNR, dB | SSIM | Frechet | codes used | perplexity |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['kind']} | {row['psnr_db']:.2f} | {row['ssim']:.3f} | {row['frechet']:.0f} | "
        f"{row['codes_used']:.3f} | {row['perplexity']:.0f} |"
        for row in rows
    ]
    args.out.with_suffix(".json").write_text(json.dumps({"steps": args.steps, "rows": rows}, indent=2) + "\n")
    args.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(run_cli(main))
