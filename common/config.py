"""One YAML file per run, loaded strictly into dataclasses; each dataclass is in the module that it configures."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from common.errors import UserError

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
        if self.mixed_precision == "False":
            self.mixed_precision = "no"  # YAML reads no as false
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
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"mixed_precision must be no, bf16 or fp16, got '{self.mixed_precision}'")


def load_config(schema: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in the YAML file `path`, with `section.key=value` overrides applied and missing keys at defaults.

    Raises:
        UserError: a missing or unreadable file, an unknown key (names the nearest), a wrong type, a value out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no configuration file {path}: give --config one of configs/*.yaml")
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise UserError(f"override '{override}' is not of the form section.key=value")
    try:
        loaded = OmegaConf.load(path)
        given = OmegaConf.merge(loaded, OmegaConf.from_dotlist(list(overrides)))
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as a YAML mapping: {' '.join(str(error).split())[:200]}") from error
    if not OmegaConf.is_dict(given):
        raise UserError(f"{path} must hold 'section: key: value' pairs, not a list")
    structured = OmegaConf.structured(schema)
    try:
        return OmegaConf.to_object(OmegaConf.merge(structured, given))  # type: ignore[return-value]
    except ConfigKeyError as error:
        raise UserError(_unknown_key(schema, str(error.full_key))) from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{error.full_key or path}: {reason}; fix it in {path} or in the overrides") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def to_yaml(config: object) -> str:
    """The whole configuration, defaults included, as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _unknown_key(schema: type, key: str) -> str:
    known = list(_dotted_keys(schema))
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown configuration key '{key}': the nearest valid one is '{nearest[0]}'"


def _dotted_keys(schema: type, prefix: str = "") -> Iterator[str]:
    for name, value in vars(schema()).items():
        if dataclasses.is_dataclass(value):
            yield from _dotted_keys(type(value), f"{prefix}{name}.")
        else:
            yield prefix + name
