from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.errors import UserError
from common.ranges import check_range
from common.stored_config import stored_config


@dataclass
class Inner:
    kind: str = "vq"
    rate: float = 0.5


@dataclass
class Outer:
    width: int = 8
    dropout: float = 0.0
    timed: bool | None = None
    wide: bool = False
    sides: list[int] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)
    steps: int = 7  # not stored

    def __post_init__(self):
        check_range("width", self.width, 1, 100)


KEYS = ("width", "dropout", "timed", "wide", "sides", "inner")
GOOD = {"width": 4, "dropout": 0, "timed": None, "wide": True, "sides": [1, 2], "inner": {"kind": "fsq"}, "psnr": 3}
FILE = Path("prior/config.json")


def test_a_stored_configuration_is_read_with_defaults_for_other_fields():
    config = stored_config(Outer, GOOD, KEYS, FILE)
    assert config == Outer(4, 0.0, None, True, [1, 2], Inner("fsq", 0.5))
    assert isinstance(config.dropout, float)


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key in ("width", "dropout", "wide", "sides", "inner") for value in (None, "3", {"a": 1}, [[1]])]
    + [("width", value) for value in (True, 1.0, 0, 101, -1, 10**18)]
    + [("dropout", value) for value in (False, float("nan"), float("inf"), -float("inf"))]
    + [("timed", value) for value in (0, "yes", [])]
    + [("wide", 1), ("sides", [1, True]), ("sides", [1.5]), ("sides", 3), ("sides", [1, None])]
    + [("inner", {"kind": 3}), ("inner", {"kind": "x" * 2000}), ("inner", {"rate": float("nan")}), ("inner", [])],
    ids=str,
)
def test_wrong_values_are_one_line_that_names_the_key(key, value):
    with pytest.raises(
        UserError, match=f"prior/config.json does not describe this model .*{key}|unknown key"
    ) as caught:
        stored_config(Outer, GOOD | {key: value}, KEYS, FILE)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key):
    with pytest.raises(UserError, match=f"'{key}' is missing"):
        stored_config(Outer, {name: value for name, value in GOOD.items() if name != key}, KEYS, FILE)


@pytest.mark.parametrize("value", [0, 101, float("nan"), float("inf"), -float("inf"), 10**400])
def test_what_lies_outside_a_range(value):
    check_range("width", 1, 1, 100)
    check_range("width", 100, 1, 100)
    with pytest.raises(ValueError, match="width must lie between 1 and 100"):
        check_range("width", value, 1, 100)
