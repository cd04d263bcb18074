"""Copy a model with its weights in half precision: `python -m common.export SOURCE TARGET`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import ArgumentParser, printable, run_cli


def main(argv: Sequence[str]) -> None:
    """Parse the command line and copy."""
    parser = ArgumentParser(prog="python -m common.export", description=__doc__)
    parser.add_argument("source", help="a model directory, or hf:owner/name")
    parser.add_argument("target", type=Path, help="the folder to write")
    args = parser.parse_args(argv)

    from common.half_precision import copy_in_half_precision  # noqa: PLC0415 - imports torch

    copy_in_half_precision(args.source, args.target)
    print(printable(args.target))


if __name__ == "__main__":
    sys.exit(run_cli(main))
