"""Copy a model with its weights in half precision: `python -m common.export SOURCE TARGET`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import ArgumentParser, UserError, run_cli


def copy_model(source: str | Path, target: Path) -> None:
    """Copy a model, or the parts of it that exist, with its floats in float16: half as large, and read as before.

    Raises:
        UserError: `source` holds no part of a model, or `target` exists.
    """
    import torch

    from common.model_card import write_model_card
    from common.model_dir import PARTS, model_directory, read_model, save_model

    directory = model_directory(source)
    parts = [part for part in PARTS if (directory / part / "config.json").is_file()]
    if not parts:
        raise UserError(f"{source} holds neither a tokenizer nor a prior: give the output_dir of a training run")
    if target.exists():
        raise UserError(f"{target} exists: choose another folder")
    for part in parts:
        config, state = read_model(directory / part)
        half = {name: value.to(torch.float16) if value.is_floating_point() else value for name, value in state.items()}
        generation = directory / part / "generation.json"
        files = {generation.name: generation.read_text(encoding="utf-8")} if generation.is_file() else {}
        save_model(target / part, half, config, files)
    write_model_card(target)


def main(argv: Sequence[str]) -> None:
    """Parse the command line and copy."""
    parser = ArgumentParser(prog="python -m common.export", description=__doc__)
    parser.add_argument("source", help="a model directory, or hf:owner/name")
    parser.add_argument("target", type=Path, help="the folder to write")
    args = parser.parse_args(argv)
    copy_model(args.source, args.target)
    print(args.target)


if __name__ == "__main__":
    sys.exit(run_cli(main))
