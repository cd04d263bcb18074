"""Writing files and folders whole or not at all: into a temporary path, then renamed. The only place that does it.

No output replaces an input: commands call `check_separate` before they start.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from common.errors import UserError

NAME_BYTES = 255  # the longest name of a file in most file systems


def temporary_path(path: Path) -> Path:
    """Where `path` is written before it is renamed: hidden, in the same folder."""
    name = f".{path.name}.partial"
    if len(os.fsencode(name)) > NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.partial"
    return path.with_name(name)


def check_separate(outputs: Sequence[tuple[str, Path]], inputs: Sequence[tuple[str, Path]]) -> None:
    """Raise UserError where an output is an input, lies in an input folder, or is another output.

    Links are followed. A path that does not exist is no mistake here: who reads it reports it.

    Args:
        outputs: files that will be written, each after its name in messages, such as "--out".
        inputs: files that are read, and folders into which nothing may be written, likewise.
    """
    taken: dict[object, str] = {}
    read = [(name, path, identity(path)) for name, path in inputs]
    for name, path in outputs:
        check_replaceable(path)
        own = identity(path)
        for other, source, known in read:
            if known in (own, identity(temporary_path(path))):
                raise UserError(f"{name} {path} would overwrite {other} {source}: choose another {name}")
            if source.is_dir() and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(source)):
                raise UserError(f"{name} {path} lies in {other} {source}: choose another {name}")
        if own in taken:
            raise UserError(f"{name} {path} is the same file as {taken[own]}: choose another {name}")
        taken[own] = f"{name} {path}"


def identity(path: Path) -> object:
    """What all paths of one file have in common: links to it, and names in another case where that does not matter."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return os.path.abspath(path)
    return found.st_dev, found.st_ino


def check_replaceable(path: Path) -> None:
    """Raise UserError where no file can have the name `path`, or a folder or device has it, which no file must replace."""
    if "\0" in str(path):
        raise UserError(f"cannot write {path}: a name cannot contain a zero byte; choose another name")
    if path.exists() and not path.is_file():
        what = "it is a folder; name a file" if path.is_dir() else "it is a device or a pipe; choose another path"
        raise UserError(f"cannot write {path}: {what}")


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
    check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # a link there would lead the content elsewhere
        write(part)
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        _raise_for(error, path)


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
    try:
        part.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def replace_directory(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a temporary folder, then rename it to `target`.

    Raises:
        UserError: the folder cannot be written; `target` is then untouched.
    """
    try:
        part = empty_temporary_directory(target)
        fill(part)
        install_directory(target)
    except BaseException as error:
        shutil.rmtree(temporary_path(target), ignore_errors=True)
        _raise_for(error, target)


def _raise_for(error: BaseException, path: Path) -> NoReturn:
    """Raise UserError where `path` could not be written, otherwise the error itself."""
    if not isinstance(error, OSError):
        raise error
    raise UserError(f"cannot write {path}: {error.strerror or error}; choose another path") from error
