"""Score a model, or a folder of images, against reference images and write a report.

    python evaluate.py --model DIR  --reference DIR|mnist5k --out report.json [--only reconstruction]
    python evaluate.py --images DIR --reference DIR|mnist5k --out report.json

A model is scored by its reconstructions, and if it has a prior also by the likelihood of the reference and by its samples.
Two images are written next to report.json: report-reconstructions.png with pairs from all over the reference, and
report-worst.png with the pairs of the lowest PSNR; every image is above its reconstruction. A number that JSON cannot hold,
such as the infinite PSNR of an image that is reconstructed bit for bit, is null.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import ArgumentParser, UserError, printable, run_cli
from diffusion.settings import add_sampling_arguments, given_settings


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    parser = ArgumentParser(prog="evaluate.py", description="Score a model or a folder of images.")
    scored = parser.add_mutually_exclusive_group(required=True)
    scored.add_argument("--model", type=Path, help="a model directory, such as runs/mnist; its prior may be missing")
    scored.add_argument("--images", type=Path, help="a folder of images")
    parser.add_argument("--reference", required=True, help="mnist5k (its validation split) or a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--only", choices=["reconstruction"], help="of a model: skip likelihood and samples")
    parser.add_argument(
        "--no-download", action="store_true", help="leave out LPIPS and rFID if their weights (0.6 GB) are not here"
    )
    parser.add_argument("--n", type=int, default=500, help="number of samples of the model (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples and the likelihood (default 0)")
    add_sampling_arguments(parser)
    return parser


def main(argv: Sequence[str]) -> None:
    """Parse the command line, score, write the report."""
    args = build_parser().parse_args(argv)
    options = given_settings(args)
    if args.n < 2:
        raise UserError(f"--n must be at least 2, got {args.n}")
    if args.seed < 0:
        raise UserError(f"--seed must not be negative, got {args.seed}")
    if args.only and not args.model:
        raise UserError("--only is for a model: give --model, or leave it out with --images")

    from evaluation.run import evaluate_folder, evaluate_model  # noqa: PLC0415 - imports torch

    if args.images:
        evaluate_folder(args.images, args.reference, args.out)
    else:
        evaluate_model(
            args.model, args.reference, args.out, samples=args.n, seed=args.seed, options=options,
            only_reconstruction=args.only is not None, download=not args.no_download,
        )  # fmt: skip
    print(printable(args.out))


if __name__ == "__main__":
    sys.exit(run_cli(main))
