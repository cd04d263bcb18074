"""Weights files. Names, shapes and types of their tensors are compared with a network before it takes memory or time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from common.errors import UserError, shorten

# The types of safetensors that a network may have. Half precision is what common/export.py writes.
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class StoredTensor(NamedTuple):
    """Shape and type of a tensor in a file. The type is the file's own name where `TYPES` does not have it."""

    shape: tuple[int, ...]
    dtype: torch.dtype | str


Header = Mapping[str, StoredTensor]


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Names, shapes and types of the tensors of a safetensors file, without their values.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with safe_open(file, "pt") as tensors:  # type: ignore[no-untyped-call]
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
            return {
                name: StoredTensor(tuple(part.get_shape()), TYPES.get(part.get_dtype(), part.get_dtype()))
                for name, part in slices.items()
            }
    except (SafetensorError, ValueError, OSError) as error:
        raise damaged(file, error) from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises UserError for a damaged one."""
    try:
        return load_file(file)
    except (SafetensorError, ValueError, OSError, KeyError, RuntimeError) as error:
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception | str) -> UserError:
    """The error for a file of a model that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return UserError(f"{file} is damaged ({shorten(str(reason))}): copy or train it again")


def first_misfit(network: nn.Module, header: Header) -> str:
    """How the first tensor in which a file differs from `network` does so; "" for none. `network` may be on the meta device."""
    own = network.state_dict()
    for name in sorted(own.keys() | header.keys()):
        if name not in header or name not in own:
            return f"'{shorten(name)}' is {'missing' if name in own else 'unknown'}"
        shape, dtype = tuple(own[name].shape), own[name].dtype
        stored = header[name]
        if stored.shape != shape:
            return f"'{name}' has shape {shorten(str(list(stored.shape)))}, wanted {list(shape)}"
        both_float = (
            isinstance(stored.dtype, torch.dtype) and stored.dtype.is_floating_point and dtype.is_floating_point
        )
        if stored.dtype != dtype and not both_float:
            return f"'{name}' has type {stored.dtype}, wanted {dtype}"
    return ""


def count_parts(header: Header, prefix: str) -> int:
    """The number of parts `prefix`.0, `prefix`.1, ... of which a file has tensors."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match[1] for name in header if (match := pattern.match(name))})


def first_wrong_value(network: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What is wrong with the first tensor of `state` that `network` must not take; or "".

    Values must be finite in the network's own type. Its integers are constants, such as the bits of a code.
    """
    for name, own in network.state_dict().items():
        value = state[name].to(own)
        if value.is_floating_point():
            # The sum is faster, but overflows for large numbers.
            if not (value.sum().isfinite() or value.isfinite().all()):
                return f"'{name}' contains values that are not finite"
        elif value.dtype != torch.bool and not torch.equal(value, own):
            return f"'{name}' contains values that no such model has"
    return ""
