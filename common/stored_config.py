"""The configuration that a model's config.json holds, read strictly into the dataclass that the model is built from."""

from __future__ import annotations

import math
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from common.errors import UserError, shorten
from common.typed_yaml import is_section, key_types

Config = TypeVar("Config")
MAX_TEXT = 1000  # characters; the longest texts are names of classes, that is of folders


def stored_config(schema: type[Config], values: Mapping[str, object], keys: Sequence[str], source: Path) -> Config:
    """The `schema` of a model: `keys` are read from `values` of its config.json and checked, other fields keep defaults.

    JSON's types are taken as they are: true is no number, "3" is not 3, and numbers are finite.

    Raises:
        UserError: a key is missing, of a wrong type or out of range; the message names `source`.
    """
    try:
        missing = next((key for key in keys if key not in values), None)
        if missing is not None:
            raise ValueError(f"'{missing}' is missing")
        return _read_dataclass(schema, {key: values[key] for key in keys}, "")
    except ValueError as error:
        raise UserError(
            f"{source} does not describe this model ({shorten(str(error))}): copy or train it again"
        ) from error


def _read_dataclass(schema: type[Config], values: Mapping[str, object], prefix: str) -> Config:
    kinds = key_types(cast(type, schema))
    unknown = next((key for key in values if key not in kinds), None)
    if unknown is not None:
        raise ValueError(f"unknown key '{shorten(prefix + unknown)}'")
    return schema(**{key: _read(kinds[key], value, prefix + key) for key, value in values.items()})


def _read(kind: Any, value: object, name: str) -> object:  # noqa: ANN401 - a type annotation has no common type
    """`value` where it has the annotated type `kind`. Raises ValueError."""
    if is_section(kind):
        if not isinstance(value, Mapping):
            raise _wrong(name, "an object", value)
        return _read_dataclass(kind, value, f"{name}.")
    if typing.get_origin(kind) is list:
        if not isinstance(value, list):
            raise _wrong(name, "a list", value)
        (element,) = typing.get_args(kind)
        return [_read(element, item, f"each of {name}") for item in value]
    if isinstance(kind, types.UnionType):  # X | None
        return None if value is None else _read(typing.get_args(kind)[0], value, name)
    if kind is bool and not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise _wrong(name, "a whole number", value)
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise _wrong(name, "a finite number", value)
        return float(value)
    if kind is str and (not isinstance(value, str) or len(value) > MAX_TEXT):
        raise _wrong(name, f"a text of at most {MAX_TEXT} characters", value)
    return value


def _wrong(name: str, wanted: str, value: object) -> ValueError:
    return ValueError(f"{name} must be {wanted}, got {reprlib.repr(value)}")
