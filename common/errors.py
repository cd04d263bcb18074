"""Errors that a user can fix, and the one place that turns them into a line and an exit code."""

from __future__ import annotations

import argparse
import difflib
import io
import logging
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

# Unicode categories that a terminal acts on, or that hide or reorder text: control and format characters, line and
# paragraph separators, and the surrogates that stand for undecodable bytes of file names.
ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
MAX_LINE = 2000  # characters of an error: one may quote a value of any length
JOINERS = "\u200c\u200d"  # format characters that scripts and emoji need


class UserError(Exception):
    """A mistake that the user can fix. The message is one line: what is wrong and how to fix it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a command that can continue later. The message is one line: how to continue."""


def printable(text: object) -> str:
    r"""`text` for a terminal: on one line, control characters and undecodable bytes as escapes such as `\x1b`.

    File names, class names and the messages of libraries may contain escape sequences, which a terminal executes.
    """
    return "".join(
        _escape(character) if unicodedata.category(character) in ESCAPED and character not in JOINERS else character
        for character in str(text)
    )


def _escape(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte that is not UTF-8, see PEP 383
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def print_note(text: object) -> None:
    """Print "note: `text`" on stderr: what was found or decided, and is no mistake."""
    print(f"note: {printable(text)}", file=sys.stderr)


class PrintableFormatter(logging.Formatter):
    """Log messages as `printable` text."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name of the standard library
        """The message of a record, without its traceback."""
        return printable(super().formatMessage(record))


class ArgumentParser(argparse.ArgumentParser):
    """argparse, but a mistake gives one line on stderr and exit code 2, without the usage block.

    Options must be written in full: argparse would read --images 7 as --images-dir 7. An unknown option or command is
    answered with the nearest known one.

    Args:
        options: those of argparse.ArgumentParser.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - passed on
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse; exits with code 2 for an unknown option, before a missing one is complained about."""
        self._check_options(args)
        return super().parse_known_args(args, namespace)

    def parse_known_intermixed_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As `parse_known_args`, with options between positional arguments."""
        self._check_options(args)
        return super().parse_known_intermixed_args(args, namespace)

    def _check_options(self, args: Sequence[str] | None) -> None:
        if self._subparsers is not None:  # each command checks its own options
            return
        for argument in sys.argv[1:] if args is None else args:
            if argument == "--":
                return
            name = argument.partition("=")[0]
            if re.match("--?[a-zA-Z]", name) and name not in self._option_string_actions:
                known = list(self._option_string_actions)
                nearest = [option for option in known if option.startswith(name)]  # an abbreviation
                self.error(
                    f"unknown option {name}: the nearest one is {nearest[0] if nearest else nearest_of(name, known)}"
                )

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2; it names the known choice that is nearest to an unknown one."""
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            nearest = nearest_of(choice[1], re.findall(r"[^\s',]+", choice[2]))
            message += f"; the nearest one is '{nearest}'"
        print(f"error: {printable(shorten(message, MAX_LINE))} (see '{self.prog} --help')", file=sys.stderr)
        raise SystemExit(2)


def run_cli(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run `main`; the exit code is 0, 2 after a UserError or a file that cannot be used, 130 after Ctrl-C.

    Args:
        argv: the arguments; None takes those of the process.
    """
    if logging.lastResort is not None:  # prints the messages of loggers without a handler
        logging.lastResort.setFormatter(PrintableFormatter())
    if isinstance(sys.stdout, io.TextIOWrapper):  # where the terminal's encoding lacks a character
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print("error: " + printable(shorten(str(error), MAX_LINE)), file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        name = printable(error.filename)
        print(f"error: cannot use {name}: {error.strerror}; choose another path", file=sys.stderr)
        return 2
    except Interrupted as interrupted:
        print(f"stopped; {printable(interrupted)}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def nearest_of(name: str, known: Sequence[str]) -> str:
    """The one of the `known` names, of which there is at least one, that is spelled most like `name`."""
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def shorten(text: str, limit: int = 300) -> str:
    """The text in one line of about `limit` characters, cut between words where it has any."""
    line = " ".join(text[: 10 * limit].split())
    if len(line) <= limit:
        return line
    return (line[:limit].rsplit(" ", 1)[0] if " " in line[:limit] else line[:limit]) + " ..."
