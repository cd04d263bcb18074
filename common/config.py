"""One YAML file per run, loaded strictly into dataclasses; each dataclass is in the module that it configures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import yaml

from common.errors import UserError
from common.scalars import parse_untyped
from common.typed_yaml import Values, is_section, key_types, merge, read_file, read_override

Config = TypeVar("Config")


@dataclass
class TrainConfig:
    """`<stage>.train.*` of a run's configuration: the same keys for every stage."""

    steps: int = 1000
    batch_size: int = 64  # global: over all processes
    learning_rate: float = 1e-3
    min_learning_rate_ratio: float = 0.05  # the last step's learning rate, as a fraction of learning_rate
    warmup_steps: int = 100
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    ema_decay: float = 0.999
    mixed_precision: str = "no"  # no | bf16 | fp16
    grad_clip: float = 1.0
    max_skipped_steps: int = 10  # steps in a row with a loss or gradient that is not finite; then the run stops
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 20
    resume: str = "auto"  # auto | never | a step-N folder
    trackers: list[str] = field(default_factory=list)  # names that accelerate knows, such as tensorboard or wandb

    def __post_init__(self) -> None:
        """Raise ValueError for values that are out of range."""
        for name in ("steps", "batch_size", "checkpoint_every", "keep_checkpoints", "log_every", "max_skipped_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")
        if not 0 <= self.min_learning_rate_ratio <= 1:
            raise ValueError(f"min_learning_rate_ratio must lie in [0, 1], got {self.min_learning_rate_ratio}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"mixed_precision must be no, bf16 or fp16, got '{self.mixed_precision}'")


def load_config(schema: type[Config], path: str | Path, overrides: Sequence[str] = (), required: str = "") -> Config:
    """The configuration in the YAML file `path`, with `section.key=value` overrides applied and missing keys at defaults.

    A text key takes the text as it stands; numbers are decimal (`common.scalars`).

    Args:
        required: a section that the file must have, because its defaults fit no real data.

    Raises:
        UserError: a missing or unreadable file or section, an unknown key (names the nearest), a wrong type, a value out
            of range.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no configuration file {path}: give --config one of configs/*.yaml")
    values = read_file(schema, path)
    if required and required not in values:
        raise UserError(
            f"{path} has no section '{required}', and its defaults are for tiny images: add one, see docs/recipes.md"
        )
    for override in overrides:
        merge(values, read_override(schema, override))
    return _build(schema, values, f"{path} with its overrides" if overrides else str(path))


def _build(schema: type[Config], values: Values, source: str, prefix: str = "") -> Config:
    """`schema` with `values`; the message for a value out of range names its key and `source`."""
    given = dict(values)
    names = key_types(cast(type, schema))
    for name, kind in names.items():
        if is_section(kind):
            given[name] = _build(kind, cast(Values, values.get(name, {})), source, f"{prefix}{name}.")
    construct: Callable[..., Config] = schema
    try:
        return construct(**given)
    except (ValueError, UserError) as error:
        message = str(error)
        if message.split(maxsplit=1)[0] in names:
            message = prefix + message
        elif prefix and not message.startswith(prefix.partition(".")[0] + "."):
            message = f"{prefix.removesuffix('.')}: {message}"
        raise UserError(f"{source}: {message}") from error


class _Dumper(yaml.SafeDumper):
    """Quotes every text that could be read as a number or as true or false, and escapes what is not printable."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = text.isprintable() and parse_untyped(text) == text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, None if plain else '"')


_Dumper.add_representer(str, _represent_text)


def to_yaml(config: object) -> str:
    """The whole configuration, defaults included, as YAML that `load_config` reads back to equal values.

    Args:
        config: a dataclass.
    """
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)
    return text
