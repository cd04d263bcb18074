"""Model directories: DIR/tokenizer and DIR/prior, each a config.json and a model.safetensors. No pickle is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError, shorten
from common.files import replace_directory
from common.hub import PREFIX, download_model
from common.weights import (
    count_parts,
    damaged,
    first_misfit,
    first_wrong_value,
    read_header,
    read_tensors,
)

Model = TypeVar("Model", bound=nn.Module)
PARTS = ("tokenizer", "prior")
GENERATION_FILE = "generation.json"  # of a prior: its generation defaults
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FILES = (CONFIG_FILE, WEIGHTS_FILE, GENERATION_FILE)
Json = Mapping[str, object]  # a configuration as JSON holds it
MAX_JSON_BYTES = 64 << 20  # a million names of classes take a fourth of it
MAX_DIGITS = 19  # of a whole number: more do not fit into 64 bits
MAX_DEPTH = 50  # of lists and objects in each other; Python's functions for JSON fail at some hundreds


def save_model(
    directory: Path, state: Mapping[str, Tensor], config: Json, files: Mapping[str, str] | None = None
) -> None:
    """Write `directory`/config.json, model.safetensors and further text `files` by name, all of them or none."""

    def fill(part: Path) -> None:
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        try:
            save_file(tensors, part / WEIGHTS_FILE)
        except SafetensorError as error:  # a full disk, for example
            raise OSError(" ".join(str(error).split())) from error
        (part / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name, text in (files or {}).items():
            (part / name).write_text(text, encoding="utf-8")

    replace_directory(directory, fill)


def read_json(file: Path) -> dict[str, object]:
    """The object that a JSON file holds. Raises UserError where it is damaged or no file."""
    if not file.is_file():
        raise UserError(f"{file} is not a file: copy the model again")
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {MAX_JSON_BYTES >> 20} MiB")
        content = json.loads(file.read_text(encoding="utf-8"), parse_int=_whole_number)
        if not isinstance(content, dict):
            raise ValueError("not an object")
        _check_depth(content)
    except RecursionError:
        raise damaged(file, "it is nested too deeply") from None
    except (ValueError, OSError) as error:
        raise damaged(file, error) from error
    return content


def _whole_number(digits: str) -> int:
    if len(digits.removeprefix("-")) > MAX_DIGITS:
        raise ValueError(f"{shorten(digits, 20)} is too large a number")
    return int(digits)


def _check_depth(content: object) -> None:
    level = [content]
    for _ in range(MAX_DEPTH):
        inner = [value for value in level if isinstance(value, (dict, list))]
        level = [part for value in inner for part in (value.values() if isinstance(value, dict) else value)]
        if not level:
            return
    raise ValueError(f"lists or objects more than {MAX_DEPTH} deep")


def read_config(directory: Path) -> dict[str, object]:
    """The configuration of a directory that `save_model` wrote. Raises UserError where a file is missing or broken."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise UserError(
                f"{directory} holds no trained {directory.name} ({name} is missing): "
                f"train it with 'python train.py {directory.name} --config ...', or check the path"
            )
    return read_json(directory / CONFIG_FILE)


def read_model(directory: Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Configuration and weights of a directory that `save_model` wrote. Raises UserError where either is missing or broken."""
    return read_config(directory), read_tensors(directory / WEIGHTS_FILE)


def load_model(
    directory: Path,
    build: Callable[[], Model],
    parts: Mapping[str, tuple[str, int]],
    network_of: Callable[[Model], nn.Module] = lambda model: model,
) -> Model:
    """The model that `build` makes from the configuration in `directory`, with the weights there, in eval mode.

    Weights and configuration are compared before the model takes memory, and before it takes the time that thousands of
    layers take: first the numbers of layers, then all shapes with a model on the meta device, which holds no values.

    Args:
        parts: key of the configuration -> (prefix of numbered parts in the weights, their number by the configuration).
        network_of: the module whose tensors are stored.

    Raises:
        UserError: the weights are damaged, do not fit the configuration, or are not finite.
    """
    header = read_header(directory / WEIGHTS_FILE)
    for key, (prefix, number) in parts.items():
        found = count_parts(header, prefix)
        if found != number:
            raise _misfit(directory, f"it has {found} parts '{prefix}' where {CONFIG_FILE} says {key} {number}")
    try:
        with torch.device("meta"):
            outline = build()
    except (UserError, ValueError) as error:
        raise UserError(f"{directory}: {error}") from error
    if what := first_misfit(network_of(outline), header):
        raise _misfit(directory, what)
    state = read_tensors(directory / WEIGHTS_FILE)
    model = build()
    if what := first_wrong_value(network_of(model), state):
        raise UserError(f"{directory / WEIGHTS_FILE} is damaged ({what}): copy or train it again")
    network_of(model).load_state_dict(state)
    return model.eval()


def _misfit(directory: Path, what: str) -> UserError:
    return UserError(
        f"{directory / WEIGHTS_FILE} does not fit {CONFIG_FILE} ({what}): is {CONFIG_FILE} from another run? "
        "copy or train the model again"
    )


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
