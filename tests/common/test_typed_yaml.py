"""YAML by the types of a schema: every text as it is written, one line for what does not fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.config import load_config
from common.errors import UserError


@dataclass
class Inner:
    path: str = "there"
    size: int = 1
    rate: float = 0.5
    flip: bool = False
    timed: bool | None = None
    levels: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ends: tuple[float, float] = (0.0, 1.0)
    options: dict[str, int | float | str | bool] = field(default_factory=dict)


@dataclass
class Outer:
    name: str = "x"
    seed: int = 0
    inner: Inner = field(default_factory=Inner)


# Texts that YAML 1.1 retypes, cuts or refuses, or that libraries of configurations resolve.
TEXTS = [
    "1.10", "1e3", "007", "0123", "0x10", "1_000", "12:30", "190:20:30", "2001-12-14", "yes", "no", "on", "off", "y", "null",
    "~", "true", "False", ".inf", "my images #1", "a: b", "{x}", "{a: b}", "[1, 2]", "a, b", "${seed}", "${oc.env:HOME}",
    "$", "${", "???", "", " ", "ends with a space ", "#1", "'", '"quoted"', "- a", "? a", "@a", "`a`", "%a", "&a", "*a",
    "!!int 3", "|", ">", "C:\\data", "a=b=c", "~/runs", "写真", "a\tb", "two\nlines", "\udcff", "\x1b[31m", "\ufeff", "<<",
]  # fmt: skip


def load(tmp_path: Path, text: str | bytes, *overrides: str) -> Outer:
    file = tmp_path / "run.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(Outer, file, overrides)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["name", "inner.path"])
def test_an_override_of_a_text_key_is_the_text(tmp_path, key, text):
    config = load(tmp_path, "seed: 1\n", f"{key}={text}")
    assert {"name": config.name, "inner.path": config.inner.path}[key] == text


# In a file the quotes and comments of YAML hold; a plain text is what is written.
@pytest.mark.parametrize(
    ("written", "text"),
    [
        *((text, text) for text in TEXTS[: TEXTS.index("my images #1")]),
        ("${seed}", "${seed}"), ("???", "???"), ("C:\\data", "C:\\data"), ("~/runs", "~/runs"), ("写真", "写真"),
        ("images # comment", "images"), ("'my images #1'", "my images #1"), ('"two\\nlines"', "two\nlines"),
        ("!!str 1.10", "1.10"), ("", ""), ("'1.10'", "1.10"), ("two\n  lines", "two lines"),
    ],
)  # fmt: skip
def test_a_text_in_a_file_is_the_written_text(tmp_path, written, text):
    config = load(
        tmp_path, f"name: {written}\ninner:\n  path: {written}\n  names: [1.10, no]\n".replace("  lines", "    lines")
    )
    assert (config.name, config.inner.path) == (text, text)
    assert config.inner.names == ["1.10", "no"]


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("size", "0123", 123), ("size", "1e3", 1000), ("rate", "1e-3", 1e-3), ("rate", "1E3", 1e3), ("rate", "3", 3.0),
        ("flip", "true", True), ("flip", "yes", True), ("flip", "No", False), ("timed", "false", False), ("timed", "null", None),
        ("timed", "~", None), ("levels", "[8, 5, 05]", [8, 5, 5]), ("levels", "[]", []), ("ends", "[0.25, 1]", (0.25, 1.0)),
        ("names", "[1.10, 'a, b', no]", ["1.10", "a, b", "no"]),
        ("options", "{eta: 0.1, mode: no, steps: 3, cap: '5'}", {"eta": 0.1, "mode": "no", "steps": 3, "cap": "5"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["file", "override", "section"])
def test_every_type_in_a_file_and_in_an_override(tmp_path, key, written, value, place):
    text, override = {
        "file": (f"inner:\n  {key}: {written}\n", []),
        "override": ("seed: 1\n", [f"inner.{key}={written}"]),
        "section": ("inner:\n", [f"inner={{{key}: {written}}}"]),
    }[place]
    found = getattr(load(tmp_path, text, *override).inner, key)
    assert found == value
    assert repr(found) == repr(value)  # the types too


def test_overrides_keep_the_other_keys(tmp_path):
    text = "name: a\ninner:\n  size: 3\n  options: {eta: 1, cap: 2}\n"
    config = load(tmp_path, text, "inner={path: b}", "inner.options.eta=0.5", "inner.flip=on", "name=", "name=c")
    assert config == Outer("c", 0, Inner(path="b", size=3, flip=True, options={"eta": 0.5, "cap": 2}))


def test_anchors_and_merge_keys(tmp_path):
    text = "name: &n 1.10\ninner:\n  path: *n\n  options: &o {a: 1}\n"
    assert load(tmp_path, text).inner.path == "1.10"
    merged = load(tmp_path, "inner:\n  options:\n    <<: &o {a: 1, b: 2}\n    a: 3\n").inner.options
    assert merged == {"a": 3, "b": 2}


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfname: a\n", "name: a\n".encode("utf-16"), b"name: a\r\n"])
def test_byte_order_marks_and_line_ends(tmp_path, content):
    assert load(tmp_path, content).name == "a"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "run.yaml is empty"),
        ("# only a comment\n", "run.yaml is empty"),
        ("- a\n- b\n", "not a list"),
        ("word\n", "not a list or a single value"),
        ("name: a\nname: b\n", "line 2: key 'name' stands twice"),
        ("inner:\n  size: 1\n  rate: 1\n  size: 2\n", "line 4: key 'size' stands twice"),
        ("inner:\n\tsize: 1\n", "line 2 is not YAML .*indent with spaces"),
        ("name: C:\\x: y\n", "line 1 is not YAML .*quote texts"),
        ("name: [a\n", "is not YAML"),
        ("name: a\n---\nname: b\n", "is not YAML"),
        ("name: {a}\n", "line 1: name must be a single value"),
        ("name: !!int 3\n", "line 1: name has the YAML tag"),
        ("name: !!python/object/apply:os.system [ls]\n", "line 1: name has the YAML tag"),
        ("name: *missing\n", "is not YAML"),
        ('name: "a\\0b"\n', "line 1: name must not hold a NUL character"),
        ("? [a]\n: b\n", "line 1: a key must be a single word"),
        ("inner: 3\n", "line 1: inner is a section of keys: set one of them, such as inner.path"),
        ("seed: 1\ninner:\n  size: 0x10\n", "line 3: inner.size must be a whole decimal number"),
        ("seed: 1\ninner:\n  siez: 1\n", "line 3: unknown configuration key 'inner.siez': .* 'inner.size'"),
        ("inner:\n  levels: 3\n", r"line 2: inner.levels must be a list, such as \[3\]"),
        ("inner:\n  levels: [3, x]\n", r"line 2: inner.levels\[1\] must be a whole"),
        ("inner:\n  options: 3\n", "line 2: inner.options must be a mapping"),
        ("inner: &a\n  <<: *a\n", "nested too deeply"),
        ("name: " + "[" * 1_000, "nested too deeply"),
        (b"name: \xff\n", "is not a YAML text file"),
        (b"name: \x00\n", "is not a YAML text file"),
        (b"\x89PNG\r\n\x1a\n", "is not"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_one_line_with_its_place(tmp_path, content, problem):
    with pytest.raises(UserError, match=problem) as caught:
        load(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert "run.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("inner=5", "inner is a section of keys: set one of them, such as inner.path"),
        ("inner=", "inner is a section of keys"),
        ("inner.size=1_000", "inner.size must be a whole decimal number"),
        ("inner.rate=12:30", "inner.rate must be a decimal number"),
        ("inner.flip=1", "inner.flip must be true or false"),
        ("inner.levels=8", r"inner.levels must be a list, such as \[8\]"),
        ("inner.levels=[8", "override 'inner.levels=.8' is not YAML"),
        ("inner.levels=" + "[" * 1_000, "nested too deeply"),
        ("inner.options=3", "inner.options must be a mapping"),
        ("inner.options={a: 1, a: 2}", "key 'a' stands twice"),
        ("inner.options.a.b=3", "unknown configuration key 'inner.options.a.b'"),
        ("inner.size.x=3", "unknown configuration key 'inner.size.x': the nearest valid one is 'inner.size'"),
        ("iner.size=3", "unknown configuration key 'iner.size': the nearest valid one is 'inner.size'"),
        ("iner=3", "unknown configuration key 'iner': the nearest valid one is 'inner'"),
        ("name", "not of the form"),
        ("=3", "not of the form"),
        ("name=a\0b", "name must not hold a NUL character"),
    ],
)
def test_an_override_that_does_not_fit_is_one_line_with_its_key(tmp_path, override, problem):
    with pytest.raises(UserError, match=problem) as caught:
        load(tmp_path, "seed: 1\n", override)
    assert "\n" not in str(caught.value)
