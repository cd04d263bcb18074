"""Written texts as values: decimal numbers, and texts as they stand."""

import pytest

from common.scalars import is_null, parse_bool, parse_float, parse_int, parse_str, parse_untyped

# What YAML 1.1 or Python's int and float read as a number, and a reader of decimal numbers does not.
NO_NUMBERS = [
    "0x10", "0o17", "0b11", "1_000", "12:30", "1:2:3", "1,5", "", "one", "1e", "e3", "--1", "٣", "1.5.2", "2001-12-14",
    ".inf", "inf", "-inf", ".nan", "nan", "1e400", "1e9999999999", "true", "1 000", "1\x00",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12), ("0123", 123), ("-7", -7), ("+7", 7), (" 5 ", 5), ("1e3", 1000), ("1E3", 1000), ("64.0", 64),
        ("1.5e1", 15), ("-0", 0), (str(2**63), 2**63), ("0e999", 0),
    ],
)  # fmt: skip
def test_whole_numbers_are_decimal(text, number):
    assert parse_int(text) == number
    assert type(parse_int(text)) is int


@pytest.mark.parametrize("text", [*NO_NUMBERS, "1.5", "1e-1", "1e-999", "1e999", "9" * 30, "9" * 10_000])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(ValueError, match="must be a whole decimal number"):
        parse_int(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1.0), ("1e-3", 1e-3), ("1E3", 1e3), (".5", 0.5), ("5.", 5.0), ("1.10", 1.1), ("007", 7.0), ("-1e-3", -1e-3),
        (" 2 ", 2.0), ("0.1", 0.1), ("1e-999", 0.0),
    ],
)  # fmt: skip
def test_numbers_are_decimal(text, number):
    assert parse_float(text) == number
    assert type(parse_float(text)) is float


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="must be a decimal number"):
        parse_float(text)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("No", False), (" on", True), ("FALSE", False)])
def test_words_of_a_bool(text, value):
    assert parse_bool(text) is value


@pytest.mark.parametrize("text", ["", "1", "0", "y", "n", "maybe", "null"])
def test_other_words_are_no_bool(text):
    with pytest.raises(ValueError, match="must be true or false"):
        parse_bool(text)


def test_a_text_stands_as_it_is():
    assert parse_str(" no #1 ") == " no #1 "
    with pytest.raises(ValueError, match="NUL"):
        parse_str("a\0b")


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("no", "no"), ("1e3", 1000.0), ("12", 12), ("007", 7), ("0x10", "0x10"), ("cap", "cap"), ("", "")],
)
def test_without_a_type_numbers_and_true_and_false_are_recognised(text, value):
    assert parse_untyped(text) == value
    assert type(parse_untyped(text)) is type(value)


@pytest.mark.parametrize(("text", "null"), [("null", True), ("~", True), ("None", True), ("", True), ("0", False)])
def test_words_for_no_value(text, null):
    assert is_null(text) is null
