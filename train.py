"""Train a tokenizer, encode a data set, train a prior.

python train.py tokenizer --config configs/mnist.yaml [section.key=value ...]
python train.py encode    --config configs/mnist.yaml [section.key=value ...]
python train.py prior     --config configs/mnist.yaml [section.key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common.errors import ArgumentParser, run_cli

STAGES = ("tokenizer", "encode", "prior")  # the keys of training.run.STAGES, which cannot be imported without torch


def main(argv: Sequence[str]) -> None:
    """Parse the command line and run one stage."""
    parser = ArgumentParser(prog="train.py", description="Train a tokenizer, encode a data set, train a prior.")
    parser.add_argument(
        "stage",
        choices=STAGES,
        help="train the tokenizer or the prior; encode only writes the codes that the prior is trained on",
    )
    parser.add_argument("--config", required=True, help="a YAML file, such as configs/mnist.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the file's")
    args = parser.parse_intermixed_args(argv)

    from training.run import run  # noqa: PLC0415 - after parsing, so that --help does not import torch

    run(args.stage, args.config, args.overrides)


if __name__ == "__main__":
    sys.exit(run_cli(main))
