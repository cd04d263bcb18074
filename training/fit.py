"""Whether a trained tokenizer fits the data of a prior, and which settings differ from its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from common.errors import UserError
from common.model_dir import CONFIG_FILE, read_json
from images.dataset import DataConfig
from vq.tokenizer import ARCHITECTURE_KEYS, Tokenizer, TokenizerConfig


def check_images(tokenizer: Tokenizer, data: DataConfig, folder: Path) -> None:
    """Check that `data` has the size and the channels of the tokenizer in `folder`. Raises UserError, which names the key.

    The range of the pixels needs no check: every data set gives [-1, 1], and a tokenizer converts it to its own range.
    """
    for key in ("image_size", "channels"):
        wanted, given = getattr(tokenizer, key), getattr(data, key)
        if wanted != given:
            raise UserError(
                f"data.{key} is {given}, but the tokenizer in {folder} is for {wanted}: set data.{key}={wanted}, "
                "or train another tokenizer in another output_dir"
            )


def check_classes(folder: Path, class_names: Sequence[str], data: DataConfig) -> None:
    """Check that the tokenizer in `folder` was trained on images of the classes `class_names`.

    A tokenizer of an older version, or of another project, does not say what it was trained on, and is accepted.

    Raises:
        UserError: it was trained on other classes, and `data.allow_other_classes` is not set.
    """
    trained = read_json(folder / CONFIG_FILE).get("class_names")
    if not isinstance(trained, list) or trained == list(class_names) or data.allow_other_classes:
        return
    given = f"data.path={data.path}" if data.path else f"data.source={data.source}"
    raise UserError(
        f"{given} has {_classes(class_names, trained)}, but the tokenizer in "
        f"{folder} was trained on {_classes(trained, class_names)}: give the same data, or set "
        "data.allow_other_classes=true to use this tokenizer for other images"
    )


def _classes(names: Sequence[str], others: Sequence[str]) -> str:
    """The number of classes, and one that the others are not."""
    if not names:
        return "no classes"
    example = next((f", such as '{name}'" for name in names if name not in others), "")
    return f"{len(names)} classes{example}"


def differing_settings(trained: TokenizerConfig, given: TokenizerConfig) -> str:
    """The settings of a trained tokenizer that a configuration gives another value: "tokenizer.downsample=4 (not 8), ..."."""
    ours, theirs = (
        dict(_flat({key: value for key, value in asdict(config).items() if key in ARCHITECTURE_KEYS}, "tokenizer"))
        for config in (trained, given)
    )
    return ", ".join(f"{key}={value} (not {theirs[key]})" for key, value in ours.items() if value != theirs[key])


def _flat(values: Mapping[str, object], prefix: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in values.items():
        key = f"{prefix}.{name}"
        found += _flat(value, key) if isinstance(value, Mapping) else [(key, value)]
    return found
