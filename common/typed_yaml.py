"""YAML to values of the types that dataclasses declare.

The YAML parser gives nodes, whose scalars are the written texts; `common.scalars` reads each by the type of its key.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import yaml

from common.errors import UserError, nearest_of
from common.scalars import PARSERS, Scalar, is_null, parse_str, parse_untyped

Values = dict[str, object]  # typed values; a section is a dict again
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}  # of nodes without an explicit tag
MERGE = "<<"


def read_file(schema: type, path: Path) -> Values:
    """The values in the YAML file `path`.

    Raises:
        UserError: not YAML, empty, an unknown or repeated key, a value of a wrong type; the message names the line.
    """
    return _TypedReader(schema, str(path), numbered=True).whole(path.read_bytes())


def read_override(schema: type, override: str) -> Values:
    """The value of `section.key=value`, in its sections. Raises UserError as `read_file`."""
    key, equals, text = override.partition("=")
    if not (key and equals):
        raise UserError(f"override '{override}' is not of the form section.key=value")
    names = key.split(".")
    value = _TypedReader(schema, f"override '{override}'", numbered=False).override(names, text)
    for name in reversed(names):
        value = {name: value}
    return typing.cast(Values, value)


def merge(values: Values, given: Values) -> None:
    """Put `given` into `values`, in place; sections and mappings keep the keys that `given` does not have."""
    for name, value in given.items():
        old = values.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            merge(old, value)
        else:
            values[name] = value


@functools.cache
def key_types(schema: type) -> Mapping[str, object]:
    """The declared type of each field of a dataclass."""
    hints = typing.get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def is_section(kind: object) -> TypeGuard[type]:
    """Whether a declared type is a dataclass, and so its key a section of keys."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def dotted_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """All keys below `schema`, such as "prior" and "prior.width"."""
    for name, kind in key_types(schema).items():
        yield prefix + name
        if is_section(kind):
            yield from dotted_keys(kind, f"{prefix}{name}.")


def _parser(kind: object, plain: bool) -> Callable[[str], Scalar]:
    """The parser of scalars of type `kind`; where several types are allowed, a quoted scalar, not a plain one, is a text."""
    if isinstance(kind, types.UnionType):
        kinds = [part for part in typing.get_args(kind) if part is not type(None)]
        if len(kinds) > 1:
            return parse_untyped if plain else parse_str
        (kind,) = kinds
    return PARSERS[typing.cast(type, kind)]


class _TypedReader:
    """Reads nodes of one source.

    Args:
        schema: the dataclass of the whole configuration.
        source: names the file or the override in messages.
        numbered: whether messages also give the line.
    """

    def __init__(self, schema: type, source: str, numbered: bool) -> None:
        self.schema, self.source, self.numbered = schema, source, numbered

    def whole(self, content: bytes) -> Values:
        """The values of a file."""
        try:
            node = self._compose(content)
            if node is None:
                raise UserError(f"{self.source} is empty: it must hold 'key: value' lines, as configs/mnist.yaml does")
            if not isinstance(node, yaml.MappingNode):
                raise UserError(f"{self.source} must hold 'key: value' lines, not a list or a single value")
            return self._section(node, self.schema, "")
        except RecursionError:
            raise UserError(f"{self.source} is nested too deeply: a configuration has few levels") from None

    def override(self, names: Sequence[str], text: str) -> object:
        """The value of an override."""
        key = ".".join(names)
        kind: object = self.schema
        for place, name in enumerate(names):
            if typing.get_origin(kind) is dict and place == len(names) - 1:
                kind = typing.get_args(kind)[1]
            elif is_section(kind) and name in key_types(kind):
                kind = key_types(kind)[name]
            else:
                raise self._unknown(key)
        if not (is_section(kind) or typing.get_origin(kind) in (dict, list, tuple)):
            return self._value(yaml.ScalarNode("tag:yaml.org,2002:str", text), kind, key)
        try:
            node = self._compose(text) or yaml.ScalarNode("tag:yaml.org,2002:str", text)
            return self._value(node, kind, key)
        except RecursionError:
            raise UserError(f"{key} is nested too deeply") from None

    def _compose(self, text: str | bytes) -> yaml.Node | None:
        try:
            node: yaml.Node | None = yaml.compose(text, Loader=yaml.BaseLoader)
        except yaml.MarkedYAMLError as error:
            line = f", line {error.problem_mark.line + 1}" if error.problem_mark and self.numbered else ""
            hint = "indent with spaces" if "'\\t'" in str(error.problem) else "quote texts that hold ': ' or ' #'"
            raise UserError(f"{self.source}{line} is not YAML ({error.problem}): {hint}") from error
        except yaml.YAMLError as error:  # bytes that are no text
            raise UserError(f"{self.source} is not a YAML text file: {' '.join(str(error).split())[:200]}") from error
        return node

    def _section(self, node: yaml.Node, schema: type, key: str) -> Values:
        if isinstance(node, yaml.ScalarNode) and node.style is None and not node.value and node.start_mark:
            return {}  # 'prior:' with every line below it commented out
        if not isinstance(node, yaml.MappingNode):
            known = list(key_types(schema))
            raise self._error(node, f"{key} is a section of keys: set one of them, such as {key}.{known[0]}")
        values: Values = {}
        for name, value in self._entries(node).items():
            below = f"{key}.{name}" if key else name
            kinds = key_types(schema)
            if name not in kinds:
                raise self._unknown(below, node=value)
            values[name] = self._value(value, kinds[name], below)
        return values

    def _entries(self, node: yaml.MappingNode) -> Mapping[str, yaml.Node]:
        merged: dict[str, yaml.Node] = {}
        own: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be a single word")
            if key.value == MERGE and isinstance(value, yaml.MappingNode):
                merged = {**self._entries(value), **merged}
            elif key.value in own:
                raise self._error(key, f"key '{key.value}' stands twice in its section: remove one")
            else:
                own[key.value] = value
        return {**merged, **own}

    def _value(self, node: yaml.Node, kind: object, key: str) -> object:
        if node.tag not in TAGS:
            raise self._error(node, f"{key} has the YAML tag {node.tag}: leave tags out")
        if is_section(kind):
            return self._section(node, kind, key)
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (list, tuple):
            if not isinstance(node, yaml.SequenceNode):
                raise self._error(node, f"{key} must be a list, such as [{self._text(node) or '1, 2'}]")
            items = [self._value(item, arguments[0], f"{key}[{place}]") for place, item in enumerate(node.value)]
            return tuple(items) if origin is tuple else items
        if origin is dict:
            if not isinstance(node, yaml.MappingNode):
                raise self._error(node, f"{key} must be a mapping, such as {{name: 1}}")
            return {
                name: self._value(item, arguments[1], f"{key}.{name}") for name, item in self._entries(node).items()
            }
        return self._scalar(node, kind, key)

    def _scalar(self, node: yaml.Node, kind: object, key: str) -> object:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, f"{key} must be a single value; put a text that holds {{ or [ into quotes")
        plain = node.style is None
        if type(None) in typing.get_args(kind) and plain and is_null(node.value):
            return None
        parse = _parser(kind, plain)
        try:
            return parse(node.value)
        except ValueError as error:
            raise self._error(node, f"{key} {error}") from error

    def _text(self, node: yaml.Node) -> str:
        return node.value if isinstance(node, yaml.ScalarNode) else ""

    def _unknown(self, key: str, node: yaml.Node | None = None) -> UserError:
        nearest = nearest_of(key, list(dotted_keys(self.schema)))
        return self._error(node, f"unknown configuration key '{key}': the nearest valid one is '{nearest}'")

    def _error(self, node: yaml.Node | None, problem: str) -> UserError:
        if self.numbered and node is not None:
            return UserError(f"{self.source}, line {node.start_mark.line + 1}: {problem}")
        return UserError(problem)
