"""Copies of models in half precision."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from common.errors import UserError
from common.model_card import write_model_card
from common.model_dir import CONFIG_FILE, GENERATION_FILE, PARTS, model_directory, read_json, read_model, save_model


def copy_in_half_precision(source: str | Path, target: Path) -> None:
    """Copy a model, or those parts of it that exist, with its floats in float16: half the size, and loaded as before.

    Args:
        source: a model directory, or "hf:owner/name".
        target: the folder to write.

    Raises:
        UserError: `source` holds no part of a model, values are not finite in half precision, or `target` exists.
    """
    directory = model_directory(source)
    parts = [part for part in PARTS if (directory / part / CONFIG_FILE).is_file()]
    if not parts:
        raise UserError(f"{source} holds neither a tokenizer nor a prior: give the output_dir of a training run")
    if target.exists():
        raise UserError(f"{target} exists: choose another folder")
    copies = {}
    for part in parts:
        config, state = read_model(directory / part)
        half = {name: value.to(torch.float16) if value.is_floating_point() else value for name, value in state.items()}
        for name, value in half.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise UserError(
                    f"{directory / part}: half precision cannot hold the values of '{name}': keep the original"
                )
        generation = directory / part / GENERATION_FILE
        files = (
            {generation.name: json.dumps(read_json(generation), indent=2) + "\n"} if os.path.lexists(generation) else {}
        )
        copies[part] = half, config, files
    for part, (half, config, files) in copies.items():  # after all parts have been read, so that none is left alone
        save_model(target / part, half, config, files)
    write_model_card(target)
