"""Compare quantizer kinds: the same network, images, steps and number of codes; scores on validation images.

python benchmarks/quantizers.py --data data/emoji64 [--steps 300] [--kinds vq simvq ...] [--out docs/quantizers]

Writes OUT.json and OUT.md. A tokenizer that is already in --runs, of the same kind and steps, is not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.errors import ArgumentParser, UserError, run_cli
from common.files import write_text

ROOT = Path(__file__).resolve().parent.parent
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


@dataclass(frozen=True)
class Row:
    """Scores of one kind; `seconds` of training, None where the tokenizer was there already."""

    kind: str
    psnr_db: float
    ssim: float
    frechet: float
    codes_used: float
    perplexity: float
    seconds: float | None


def run(command: Sequence[str]) -> float:
    """Run a command and return its seconds. Raises UserError with the command's last line where it fails."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - start


def measure(kind: str, args: argparse.Namespace) -> Row:
    """Train one kind for `--steps` without the adversarial loss and score it on the validation images."""
    name = "".join(c if c.isalnum() else "-" for c in kind)
    folder = (args.runs / f"{args.config.stem}-{args.steps}-{name}").resolve()
    data = args.data.resolve()
    seconds = None
    if not (folder / "tokenizer/config.json").is_file():
        command = ["train.py", "tokenizer", "--config", str(args.config), f"output_dir={folder}", f"data.path={data}"]
        command += [f"tokenizer.train.steps={args.steps}", "tokenizer.loss.adversarial_weight=0"]
        seconds = run([*command, *(f"tokenizer.quantizer.{option}" for option in KINDS[kind])])
    report = folder / "report.json"
    command = ["evaluate.py", "--model", str(folder), "--reference", str(data / "val"), "--only", "reconstruction"]
    run([*command, "--no-download", "--out", str(report)])
    scores = json.loads(report.read_text(encoding="utf-8"))["reconstruction"]
    same = {name: scores[name] for name in ("psnr_db", "ssim", "codes_used", "perplexity")}
    return Row(kind=kind, frechet=scores["frechet"]["frechet_distance"], seconds=seconds, **same)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| kind | PSNR, dB | SSIM | Frechet | codes used | perplexity |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.kind} | {row.psnr_db:.2f} | {row.ssim:.3f} | {row.frechet:.0f} | {row.codes_used:.3f} | "
        f"{row.perplexity:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    parser = ArgumentParser(prog="quantizers.py", description="Quantizer kinds side by side.")
    parser.add_argument("--config", type=Path, default=Path("configs/emoji64-f4.yaml"))
    parser.add_argument("--data", type=Path, required=True, help="a folder with train/ and val/")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--runs", type=Path, default=Path("runs/quantizers"))
    parser.add_argument("--out", type=Path, default=Path("docs/quantizers"))
    args = parser.parse_args(argv)
    if not (args.data / "val").is_dir():
        raise UserError(f"{args.data} has no val/: give --data a folder with train/ and val/")
    rows = [measure(kind, args) for kind in args.kinds]
    report = {"steps": args.steps, "rows": [asdict(row) for row in rows]}
    write_text(args.out.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    write_text(args.out.with_suffix(".md"), table(rows))
    print(table(rows), end="")


if __name__ == "__main__":
    sys.exit(run_cli(main))
