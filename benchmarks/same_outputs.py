"""Record what a fixed list of commands writes, and compare two records: a refactoring must not change a byte.

    python benchmarks/same_outputs.py record --digits runs/mnist --out before.json      (on one commit)
    python benchmarks/same_outputs.py record --digits runs/mnist --out after.json       (on another)
    python benchmarks/same_outputs.py compare before.json after.json

A record holds a SHA-256 of the decoded pixels of every image, of the tensors of every trained model, and the numbers of every
JSON report. Texts, such as PNG metadata and the names of keys, are not compared. Everything runs with one thread, so that two
records of one machine are comparable. `compare` exits with code 1 where something differs; a new number in a report is allowed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
EMOJI = ["--model", "models/emoji64"]
FACE = ["--image", "docs/images/emoji.png"]
SAMPLERS = {
    "tweedie": [], "euler": [], "tau_leaping": [], "predictor_corrector": ["--option", "churn=0.7"],
    "theta_trapezoidal": [], "first_hitting": [], "informed_corrector": [], "remdm": ["--option", "mode=confidence"],
    "maskgit": [], "halton": [], "entropy_bound": [],
}  # fmt: skip
SMALL = ["prior.width=32", "prior.depth=2", "prior.heads=2", "prior.train.batch_size=16", "prior.train.steps=10"]
PRIORS = {
    "absorbing": [],
    "uniform": ["prior.graph=uniform", "prior.noise=geometric"],
    "score": ["prior.graph=uniform", "prior.parametrization=score", "prior.noise=geometric"],
    "maskgit": ["prior.loss=maskgit", "prior.time_conditioned=true"],
    "lambda_dce": ["prior.loss=lambda_dce"],
}


def commands(digits: Path, out: Path) -> dict[str, list[str]]:
    """Name -> arguments of every command, in the order in which they run; all write below `out`."""
    plain = ["--sampler", "tweedie", "--guidance", "1", "--steps", "4", "--seed", "3"]
    strong = ["--sampler", "tweedie", "--guidance", "2", "--steps", "4"]
    model = ["--model", str(digits)]
    digit = ["--image", "docs/images/digit.png", "--mask", "docs/images/digit-mask.png"]
    found = {
        f"grid-{name}": ["sample.py", "grid", *EMOJI, "--n", "4", "--steps", "4", "--sampler", name, "--guidance", "2", *more]
        for name, more in SAMPLERS.items()
    }  # fmt: skip
    found |= {
        "grid-digits": ["sample.py", "grid", *model, "--n", "10", "--label", *"0123456789", *strong],
        "grid-settings": ["sample.py", "grid", *EMOJI, "--n", "3", *plain[:2], "--guidance", "3", "--guidance-ramp", "linear",
                          "--guidance-interval", "0.1", "0.9", "--temperature", "0.9", "--top-p", "0.9", "--step-grid", "cosine"],
        "grid-sliding": ["sample.py", "grid", *EMOJI, "--n", "2", "--size", "64x128", *plain],
        "grid-rotary": ["sample.py", "grid", *EMOJI, "--n", "2", "--size", "64x128", "--large-grids", "rotary", *plain],
        "grid-bfloat16": ["sample.py", "grid", *EMOJI, "--n", "2", "--dtype", "bfloat16", *plain],
        "inpaint-mask": ["sample.py", "inpaint", *model, *digit, "--n", "4", "--label", "3", *strong],
        "inpaint-box": ["sample.py", "inpaint", *EMOJI, *FACE, "--box", "8,40,56,60", "--feather", "4", "--margin", "0", *plain],
        "inpaint-fit": ["sample.py", "inpaint", *EMOJI, *FACE, "--box", "8,40,30,60", "--fit", "--n", "2", *plain],
        "inpaint-hole": ["sample.py", "inpaint", *EMOJI, "--image", "docs/images/emoji-hole.png", *plain],
        "outpaint": ["sample.py", "outpaint", *EMOJI, *FACE, "--left", "13", "--bottom", "20", "--feather", "3", *plain],
        "vary": ["sample.py", "vary", *EMOJI, *FACE, "--strength", "0.6", "--n", "3", *plain],
        "morph": ["sample.py", "morph", *EMOJI, *FACE, "--other", "docs/images/emoji-other.png", "--n", "5", *plain],
        "reconstruct": ["sample.py", "reconstruct", *EMOJI, *FACE, "--tile", "32"],
    }  # fmt: skip
    found = {name: [*arguments, "--out", str(out / f"{name}.png")] for name, arguments in found.items()}
    found["grid-digits"] += ["--images-dir", str(out / "images"), "--trajectory", str(out / "trajectory.gif")]
    report = ["--reference", "mnist5k", "--n", "20", "--no-download", *strong]
    found["evaluate"] = ["evaluate.py", *model, *report, "--out", str(out / "evaluate.json")]
    start = ["--config", "configs/mnist.yaml"]
    trained = out / "trained"
    found["train-tokenizer"] = [
        "train.py", "tokenizer", *start, f"output_dir={trained}", "tokenizer.train.steps=10", "tokenizer.train.batch_size=16",
        "tokenizer.loss.adversarial_start=3", "tokenizer.loss.adversarial_warmup=4", "tokenizer.loss.lecam_weight=0.001",
    ]  # fmt: skip
    for name, more in PRIORS.items():
        folder = out / f"prior-{name}"
        found[f"train-{name}"] = ["train.py", "prior", *start, f"output_dir={folder}", *SMALL, *more]
        found[f"grid-of-{name}"] = ["sample.py", "grid", "--model", str(folder), "--n", "4", *strong[:2], "--guidance", "2",
                                    "--steps", "6", "--out", str(out / f"grid-of-{name}.png")]  # fmt: skip
        found[f"inpaint-of-{name}"] = ["sample.py", "inpaint", "--model", str(folder), *digit, *plain, "--out",
                                       str(out / f"inpaint-of-{name}.png")]  # fmt: skip
    for sampler in ("predictor_corrector", "euler", "theta_trapezoidal"):
        found[f"uniform-{sampler}"] = ["sample.py", "grid", "--model", str(out / "prior-uniform"), "--n", "4", "--sampler",
                                       sampler, "--guidance", "2", "--steps", "4", "--top-p", "0.9", "--out",
                                       str(out / f"uniform-{sampler}.png")]  # fmt: skip
    return found


def digest(file: Path) -> object:
    """What is compared of a file: hashes of pixels and of tensors, the numbers of a report."""
    if file.suffix == ".safetensors":
        tensors = load_file(file)
        return {name: hashlib.sha256(value.tobytes()).hexdigest()[:16] for name, value in sorted(tensors.items())}
    if file.suffix == ".json":
        return sorted(numbers(json.loads(file.read_text(encoding="utf-8"))))
    frames = [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(Image.open(file))]
    return [hashlib.sha256(frame.tobytes()).hexdigest()[:16] + f" {frame.shape}" for frame in frames]


def numbers(value: object) -> list[float]:
    """All numbers in a JSON value."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [] if isinstance(value, (bool, str)) or value is None else [float(value)]


def record(digits: Path, out: Path, only: str = "") -> None:
    """Run every command whose name matches the pattern `only`, and write the record to `out`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in PRIORS:
            (place / f"prior-{name}").mkdir()
            (place / f"prior-{name}/tokenizer").symlink_to((digits / "tokenizer").resolve())
        for name, arguments in commands(digits.resolve(), place).items():
            if not re.search(only, name):
                continue
            done = subprocess.run(
                [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            print(f"{name}: exit code {done.returncode}", flush=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
        kinds = ("*.png", "*.gif", "evaluate.json", "*/*/model.safetensors")
        for file in sorted(file for kind in kinds for file in place.rglob(kind)):
            if "checkpoints" not in file.parts and file.name != "curves.png":
                found[file.relative_to(place).as_posix()] = digest(file)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for every output that is missing or differs."""
    lines = [f"missing: {name}" for name in before if name not in after]
    for name in before.keys() & after.keys():
        if name.endswith(".json"):
            missing = [number for number in before[name] if number not in after[name]]
            if missing:
                lines.append(f"{name}: without the numbers {missing}")
        elif before[name] != after[name]:
            lines.append(f"differs: {name}")
    return sorted(lines)


def main() -> None:
    """Parse the command line, record or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    actions = parser.add_subparsers(dest="action", required=True)
    action = actions.add_parser("record", help="run the commands and write a record", allow_abbrev=False)
    action.add_argument("--digits", type=Path, required=True, help="a digits model, such as runs/mnist after make demo")
    action.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    action.add_argument("--only", default="", help="run only the commands whose name matches this pattern")
    action = actions.add_parser("compare", help="list what differs between two records")
    action.add_argument("before", type=Path)
    action.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.action == "record":
        record(args.digits, args.out, args.only)
        return
    before, after = (json.loads(file.read_text(encoding="utf-8")) for file in (args.before, args.after))
    found = differences(before, after)
    print("\n".join(found) or f"{len(before)} outputs are equal")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
