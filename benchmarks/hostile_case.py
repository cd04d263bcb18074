"""One hostile input, how a process ended that was given it, and the rules that every process must follow."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIMIT_S, LIMIT_BYTES = 5.0, 2 << 30
MAX_LINE = 2000  # characters of an error; paths may be long
PARTIAL = (".*.partial", ".*.old")  # names of temporary paths, see common/files.py


def nothing_more() -> str:
    """No further rule."""
    return ""


@dataclass(frozen=True)
class Case:
    """What a process is given.

    Attributes:
        kind: describes the fault.
        program: a key of `benchmarks.hostile_programs.PROGRAMS`.
        arguments: of the program.
        out: a file that exists afterwards where the process ended with 0, and nowhere else; None: it writes none.
        check: the further rule that a process broke that ended with 0; "" for none.
        limit_s: seconds that it may take.
        replaceable: files that it may replace, because they are outputs and no inputs.
    """

    kind: str
    program: str
    arguments: list[str]
    out: Path | None = None
    check: Callable[[], str] = nothing_more
    limit_s: float = LIMIT_S
    replaceable: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class Outcome:
    """How a process ended. The exit code is None where it was stopped or crashed; `stderr` is what it wrote there."""

    code: int | None
    seconds: float
    peak_bytes: int
    stderr: str


def snapshot(folder: Path) -> dict[Path, str]:
    """The hash of each regular file under `folder` that can be read."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if stat.S_ISREG(path.lstat().st_mode)
    }


def broken_rule(case: Case, outcome: Outcome, folder: Path, before: dict[Path, str]) -> str:
    """The first rule that a process broke, "" for none. `before` is the `snapshot` of its folder before it ran."""
    broken = _of_process(case, outcome) or _of_files(case, outcome, folder, before)
    return broken or (case.check() if outcome.code == 0 else "")


def _of_process(case: Case, outcome: Outcome) -> str:
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error:")]
    if outcome.code not in (0, 2) or len(errors) != (outcome.code == 2):
        return f"exit code {outcome.code}: {outcome.stderr}"
    if any(len(line) > MAX_LINE + sum(map(len, case.arguments)) for line in errors):
        return f"an error of {len(errors[0])} characters"
    if any(not character.isprintable() for line in errors for character in line):
        return f"control characters in {errors[0]!r}"
    if outcome.seconds > case.limit_s:
        return f"{outcome.seconds:.1f} s"
    return f"{outcome.peak_bytes / 2**30:.2f} GiB" if outcome.peak_bytes > LIMIT_BYTES else ""


def _of_files(case: Case, outcome: Outcome, folder: Path, before: dict[Path, str]) -> str:
    if left := [path.name for pattern in PARTIAL for path in folder.rglob(pattern) if path not in before]:
        return f"left {left[0]}"
    after = snapshot(folder)
    if changed := [
        path for path, digest in before.items() if path not in case.replaceable and after.get(path) != digest
    ]:
        return f"changed its input {changed[0]}"
    if case.out is None or case.out in before or case.out.exists() == (outcome.code == 0):
        return ""
    return "wrote no file" if outcome.code == 0 else "wrote a file in spite of an error"
