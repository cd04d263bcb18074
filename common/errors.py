"""Errors that a user can fix, and the one place that turns them into a line and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn


class UserError(Exception):
    """A mistake that the user can fix. The message is one line: what is wrong and how to fix it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a command that can continue later. The message is one line: how to continue."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse, but a mistake gives one line on stderr and exit code 2, without the usage block."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        print(f"error: {message} (see '{self.prog} --help')", file=sys.stderr)
        raise SystemExit(2)


def run_cli(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run `main`; the exit code is 0, 2 after a UserError or a file that cannot be used, 130 after Ctrl-C.

    Args:
        argv: the arguments; None takes those of the process.
    """
    try:
        main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: cannot use {error.filename}: {error.strerror}; choose another path", file=sys.stderr)
        return 2
    except Interrupted as interrupted:
        print(f"stopped; {interrupted}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def shorten(text: str, limit: int = 300) -> str:
    """The text in one line of about `limit` characters, cut between words where it has any."""
    line = " ".join(text[: 10 * limit].split())
    if len(line) <= limit:
        return line
    return (line[:limit].rsplit(" ", 1)[0] if " " in line[:limit] else line[:limit]) + " ..."
