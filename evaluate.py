"""Score a model, or a folder of images, against reference images and write a report.

    python evaluate.py --model DIR  --reference REFERENCE --out report.json [--only reconstruction]
    python evaluate.py --images DIR --reference REFERENCE --out report.json [--size 64]

REFERENCE is a training configuration such as runs/mnist/config.yaml (the validation images of that run), DIR:val or
DIR:train (one split of a folder of images, as training splits it), DIR (all its images), or mnist5k (the validation split of
the embedded digits). A class is a folder; an image whose class the model does not know is scored without a class.

A model is scored by its reconstructions, and if it has a prior also by the likelihood of the reference and by its samples.
Two images are written next to report.json: report-reconstructions.png with pairs from all over the reference, and
report-worst.png with the pairs of the lowest PSNR; every image is above its reconstruction. A number that JSON cannot hold,
such as the infinite PSNR of an image that is reconstructed bit for bit, is null.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import ArgumentParser, UserError, printable, run_cli
from diffusion.settings import SamplingSettings, add_sampling_arguments, given_settings, setting_fields

SAMPLING_ONLY = {"n": "--n", "seed": "--seed"}  # flags of likelihood and samples, beside the sampling options
MODEL_ONLY = {"only": "--only", "no_download": "--no-download"}


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    parser = ArgumentParser(prog="evaluate.py", description="Score a model or a folder of images.")
    scored = parser.add_mutually_exclusive_group(required=True)
    scored.add_argument(
        "--model", type=os.path.expanduser, help="a model directory, such as runs/mnist, or hf:owner/name"
    )
    scored.add_argument("--images", help="a folder of images; or DIR:val, DIR:train or CONFIG.yaml, as for --reference")
    parser.add_argument(
        "--reference",
        required=True,
        help="a training configuration (its validation images), DIR:val, DIR:train, DIR (all its images), or mnist5k",
    )
    parser.add_argument("--out", type=os.path.expanduser, required=True, help="the JSON file to write")
    parser.add_argument(
        "--size", type=int, help="with --images: pixels a side to read all images at (default: that of the images)"
    )
    model = parser.add_argument_group("with --model")
    model.add_argument("--only", choices=["reconstruction"], help="skip likelihood and samples")
    model.add_argument(
        "--no-download", action="store_true", help="leave out LPIPS and rFID if their weights (0.6 GB) are not here"
    )
    model.add_argument("--n", type=int, help="number of samples of the model (default 500)")
    model.add_argument("--seed", type=int, help="of the samples and the likelihood (default 0)")
    add_sampling_arguments(model)
    return parser


def check_flags(args: Namespace, options: Mapping[str, object]) -> None:
    """Raise UserError for flags that nothing would read, and for numbers out of range."""
    sampling = [flag for name, flag in SAMPLING_ONLY.items() if getattr(args, name) is not None]
    sampling += [field.flags[0] for field in setting_fields(SamplingSettings) if field.name in options]
    of_model = [flag for name, flag in MODEL_ONLY.items() if getattr(args, name)] + sampling
    if args.images is not None and of_model:
        raise UserError(f"{', '.join(of_model)} only act with --model: leave them out with --images")
    if args.model is not None and args.size is not None:
        raise UserError("--size only acts with --images, a model has its own size: leave it out with --model")
    if args.only and sampling:
        raise UserError(
            f"{', '.join(sampling)} only act on samples and likelihood: leave them out with --only {args.only}"
        )
    if args.n is not None and args.n < 2:
        raise UserError(f"--n must be at least 2, got {args.n}")
    if args.seed is not None and args.seed < 0:
        raise UserError(f"--seed must not be negative, got {args.seed}")


def main(argv: Sequence[str]) -> None:
    """Parse the command line, score, write the report."""
    args = build_parser().parse_args(argv)
    options = given_settings(args)
    check_flags(args, options)
    out = Path(args.out)
    if args.images is not None:
        from evaluation.folder import evaluate_folder  # noqa: PLC0415 - imports torch

        evaluate_folder(args.images, args.reference, out, args.size)
    else:
        from evaluation.run import evaluate_model  # noqa: PLC0415 - imports torch

        evaluate_model(
            args.model, args.reference, out, samples=args.n, seed=args.seed, options=options,
            only_reconstruction=args.only is not None, download=not args.no_download,
        )  # fmt: skip
    print(printable(out))


if __name__ == "__main__":
    sys.exit(run_cli(main))
