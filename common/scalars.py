"""Values from their written text, by the type that a key declares: numbers are decimal, a text is taken as it stands.

YAML 1.1 decides by the text instead: it reads 1.10 as 1.1, 0123 as 83, 12:30 as 750, no as false and 1_000 as 1000.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

Scalar = int | float | str | bool

NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
LARGEST = 2**64  # no key needs whole numbers beyond this
BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NULLS = ("", "~", "null", "none")


def parse_int(text: str) -> int:
    """The whole number that `text` writes in decimal: 0123 is 123, and 1e3 is 1000. Raises ValueError."""
    written = text.strip()
    if NUMBER.fullmatch(written) and len(written) <= 100:
        number = Decimal(written)
        if abs(number) <= LARGEST and number == int(number):
            return int(number)
    raise ValueError(f"must be a whole decimal number of at most 64 bits, such as 1000, got '{text}'")


def parse_float(text: str) -> float:
    """The finite number that `text` writes in decimal. Raises ValueError."""
    written = text.strip()
    number = float(written) if NUMBER.fullmatch(written) else float("inf")
    if abs(number) == float("inf"):
        raise ValueError(f"must be a decimal number, such as 0.001 or 1e-3, got '{text}'")
    return number


def parse_bool(text: str) -> bool:
    """True for true, yes and on, False for false, no and off, in any case. Raises ValueError."""
    try:
        return BOOLS[text.strip().lower()]
    except KeyError:
        raise ValueError(f"must be true or false, got '{text}'") from None


def parse_str(text: str) -> str:
    """`text` itself. Raises ValueError for a NUL character, which no path and no name can hold."""
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


PARSERS: dict[type, Callable[[str], Scalar]] = {int: parse_int, float: parse_float, bool: parse_bool, str: parse_str}


def parse_untyped(text: str) -> Scalar:
    """The value of a key without a declared type: true or false, else a decimal number, else the text itself."""
    if text in ("true", "false"):
        return text == "true"
    try:
        number = parse_float(text)
    except ValueError:
        return parse_str(text)
    return number if set(text) & set(".eE") else parse_int(text)


def is_null(text: str) -> bool:
    """Whether `text` stands for no value: null, none, ~ or nothing."""
    return text.strip().lower() in NULLS
