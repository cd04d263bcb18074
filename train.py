"""Train a tokenizer, encode a data set, train a prior.

python train.py tokenizer --config configs/mnist.yaml [section.key=value ...]
python train.py encode    --config configs/mnist.yaml [section.key=value ...]
python train.py prior     --config configs/mnist.yaml [section.key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common.errors import ArgumentParser, run_cli


def main(argv: Sequence[str]) -> None:
    """Parse the command line and run one stage."""
    parser = ArgumentParser(prog="train.py", description="Train a tokenizer, encode a data set, train a prior.")
    parser.add_argument(
        "stage",
        choices=["tokenizer", "encode", "prior"],
        help="what to train, or encode to write the codes of the data set",
    )
    parser.add_argument("--config", required=True, help="a YAML file, such as configs/mnist.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values to replace")
    args = parser.parse_intermixed_args(argv)

    from training.run import run  # noqa: PLC0415 - after parsing, so that --help needs no torch

    run(args.stage, args.config, args.overrides)


if __name__ == "__main__":
    sys.exit(run_cli(main, interrupted="the same command resumes from the newest checkpoint"))
