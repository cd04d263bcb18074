"""Model directories: DIR/tokenizer and DIR/prior, each a config.json and a model.safetensors. No pickle is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.errors import UserError
from common.files import replace_directory
from common.hub import PREFIX, download_model

PARTS = ("tokenizer", "prior")
GENERATION_FILE = "generation.json"  # of a prior: its generation defaults
FILES = ("config.json", "model.safetensors", GENERATION_FILE)
Json = Mapping[str, object]  # a configuration as JSON holds it


def save_model(
    directory: Path, state: Mapping[str, Tensor], config: Json, files: Mapping[str, str] | None = None
) -> None:
    """Write `directory`/config.json, model.safetensors and further text `files` by name, all of them or none."""

    def fill(part: Path) -> None:
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        try:
            save_file(tensors, part / "model.safetensors")
        except SafetensorError as error:  # a full disk, for example
            raise OSError(" ".join(str(error).split())) from error
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name, text in (files or {}).items():
            (part / name).write_text(text, encoding="utf-8")

    replace_directory(directory, fill)


def read_json(file: Path) -> dict[str, object]:
    """The object that a JSON file holds. Raises UserError where it is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.parent} is damaged ({error}): copy or train it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged (not an object): copy or train it again")
    return content


def read_model(directory: Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Configuration and weights of a directory that `save_model` wrote. Raises UserError where either is missing or broken."""
    for name in ("config.json", "model.safetensors"):
        if not (directory / name).is_file():
            raise UserError(
                f"{directory} holds no trained {directory.name} ({name} is missing): "
                f"train it with 'python train.py {directory.name} --config ...', or check the path"
            )
    config = read_json(directory / "config.json")
    try:
        state = load_file(directory / "model.safetensors")
    except SafetensorError as error:
        raise UserError(f"{directory} is damaged ({error}): copy or train it again") from error
    return config, state


def model_directory(model: str | Path, parts: Sequence[str] = PARTS) -> Path:
    """The folder of `model`: itself, or a local copy of repository "hf:owner/name". Raises UserError where there is none."""
    if str(model).startswith(PREFIX):
        folders = ("", *(f"{part}/" for part in parts))  # "": a tokenizer alone may stand at the root
        return download_model(str(model), [f"{folder}{name}" for folder in folders for name in FILES])
    if not Path(model).is_dir():
        raise UserError(f"no model directory {model}: give the output_dir of a training run, or hf:owner/name")
    return Path(model)


def protected_folders(model: str | Path) -> list[tuple[str, Path]]:
    """The folders of a model directory that only training writes, for `common.files.check_separate`."""
    return [(f"the folder {name} of the model", Path(model) / name) for name in (*PARTS, "checkpoints", "codes")]


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load `state` strictly. Raises UserError naming the first key or shape that does not fit."""
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state or name not in own:
            where = "missing from" if name not in state else "unknown in"
            raise UserError(
                f"{source} does not fit this model: '{name}' is {where} it; is config.json from another run?"
            )
        if own[name].shape != state[name].shape:
            raise UserError(
                f"{source} does not fit this model: '{name}' has shape {list(state[name].shape)}, "
                f"wanted {list(own[name].shape)}; set output_dir to another folder or train.resume=never"
            )
    module.load_state_dict(state)
