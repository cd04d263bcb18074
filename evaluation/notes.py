"""Notes for the user: lines on stderr that say what was found and decided."""

from __future__ import annotations

import sys

from common.errors import printable


def print_note(text: str) -> None:
    """Print one line, "note: " and `text`, to stderr."""
    print(f"note: {printable(text)}", file=sys.stderr)
