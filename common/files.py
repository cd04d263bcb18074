"""Writing files and folders whole or not at all: into a temporary path, then renamed. The only place that does it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError


def temporary_path(path: Path) -> Path:
    """Where `path` is written before it is renamed: hidden, in the same folder."""
    return path.with_name(f".{path.name}.partial")


def expand_user(path: str, key: str) -> str:
    """`path` with a leading ~ or ~name replaced by the home folder. Raises ValueError, which names `key`, without such a user."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(
            f"{key}={path} begins with ~, and there is no such user: write ./{path} for a folder of this name"
        )
    return expanded


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a file at a temporary path, then rename it to `path`.

    Raises:
        UserError: the file cannot be written; `path` then holds its old content.
    """
    part = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another path") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all; parent folders are made. Raises UserError as `replace_file`.

    Bytes of file names that are not UTF-8 (surrogates in Python's texts) are written as escapes.
    """
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8", errors="backslashreplace"))


def empty_temporary_directory(target: Path) -> Path:
    """An empty folder at the temporary path of `target`; for several processes that fill it together."""
    part = temporary_path(target)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def install_directory(target: Path) -> None:
    """Rename the temporary path of `target`, filled by now, to `target`; an older folder there is removed."""
    part, old = temporary_path(target), target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def replace_directory(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a temporary folder, then rename it to `target`; on failure `target` is untouched."""
    part = empty_temporary_directory(target)
    try:
        fill(part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    install_directory(target)
