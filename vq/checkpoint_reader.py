"""Reading the state dict of a checkpoint file of another project. Code in a pickle is never executed."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import UserError

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
# Keys under which files keep their state dict. LlamaGen prefers them in this order: averaged weights before others.
WRAPPERS = ("state_dict", "ema", "model")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a .safetensors file, or of a file of torch.save that contains only tensors and plain containers.

    A state dict under one of the keys WRAPPERS is found, also in several layers.

    Raises:
        UserError: the file does not exist, is of another kind, is damaged, or contains objects other than tensors,
            numbers, texts and containers.
    """
    if not path.is_file():
        raise UserError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: give a checkpoint file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{path} is damaged or no safetensors file and cannot be read ({error}): get it again"
            ) from error
    if path.suffix not in PICKLED:
        raise UserError(f"{path} is of an unknown kind: give a file ending in .safetensors, {', '.join(PICKLED)}")
    content = _load_tensors(path)
    while isinstance(content, dict):
        inner = next((name for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path} contains no state dict but {type(content).__name__}: save one with torch.save or safetensors"
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path} contains '{key}', which is not a named tensor: save the state dict alone")
    return content


def _load_tensors(path: Path) -> object:
    """The content of a file of torch.save, if it consists of tensors, numbers, texts and containers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        problem = (
            f"contains more than tensors ({refused[1]})"
            if refused
            else "is damaged, no checkpoint, or contains more than tensors"
        )
        raise UserError(
            f"{path} {problem}: it could only be read by unpickling, which runs code from the file and is not done here; "
            "if you trust the file, load it yourself and save its state_dict as .safetensors (docs/pretrained.md)"
        ) from error
    except Exception as error:  # the reader fails in many ways on bytes that are no pickle
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path} is damaged or no checkpoint and cannot be read ({reason}): get it again") from error
