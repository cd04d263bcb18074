"""SamplingSettings: the only definition of the sampling options.

Command line, Python keyword arguments, the app's controls, reports and PNG metadata are derived from its fields. A new option
is one more field here, and the place that uses it. This module imports no torch, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from common.errors import UserError, nearest_of
from common.scalars import Scalar

MAX_STEPS = 100_000
TIME_SPACINGS = ("uniform", "cosine", "loglinear")
GUIDANCE_RAMPS = ("constant", "linear", "power_cosine")
LARGE_GRIDS = ("sliding", "rotary")
SettingValue = Scalar | tuple[float, float] | Mapping[str, Scalar]


def option(
    default: SettingValue,
    text: str,
    flags: Sequence[str],
    *,
    low: float = -math.inf,
    above: float = -math.inf,
    high: float = math.inf,
    choices: Sequence[str] = (),
) -> typing.Any:  # noqa: ANN401 - as dataclasses.field, whose return type stands for any default
    """A field of a settings class.

    Args:
        default: used where neither the caller nor the model gives a value.
        text: the help text.
        flags: names on the command line; the first one also names the option in messages.
        low, above, high: the least value, the value it must exceed, the greatest value.
        choices: of a text.
    """
    metadata = {
        "text": text,
        "flags": tuple(flags),
        "low": low,
        "above": above,
        "high": high,
        "choices": tuple(choices),
    }
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SettingField:
    """What a settings class says about one of its fields; see `option`."""

    name: str
    type: object
    default: SettingValue
    text: str
    flags: tuple[str, ...]
    low: float
    above: float
    high: float
    choices: tuple[str, ...]

    @property
    def label(self) -> str:
        """The option's name in messages: its first flag without dashes."""
        return self.flags[0].removeprefix("--")

    def checked(self, value: object) -> SettingValue:
        """`value` in the field's type. Raises UserError where it has another type or is out of range."""
        if self.type in (int, float):
            return self._number(value)
        if self.type is bool:
            if isinstance(value, bool):
                return value
            raise UserError(f"{self.label} must be true or false, got {value!r}")
        if self.type is str:
            if not isinstance(value, str):
                raise UserError(f"{self.label} must be a text, got {value!r}")
            if self.choices and value not in self.choices:
                raise UserError(f"unknown {self.label} '{value}': known are {', '.join(self.choices)}")
            return value
        if typing.get_origin(self.type) is tuple:
            return self._interval(value)
        if isinstance(value, Mapping):
            return dict(value)
        raise UserError(f"{self.label} must be a mapping of names to values, got {value!r}")

    def _number(self, value: object) -> int | float:
        whole = self.type is int
        try:
            number = float(value)  # type: ignore[arg-type]
            fits = not isinstance(value, (bool, str)) and math.isfinite(number) and (not whole or number == int(number))
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise UserError(f"{self.label} must be a {'whole ' if whole else ''}number, got {value!r}")
        if not (number >= self.low and number > self.above and number <= self.high):
            limits = [f"at least {self.low:g}"] if self.low > -math.inf else []
            limits += [f"above {self.above:g}"] if self.above > -math.inf else []
            limits += [f"at most {self.high:g}"] if self.high < math.inf else []
            raise UserError(f"{self.label} must be {' and '.join(limits)}, got {value}")
        return int(number) if whole else number

    def _interval(self, value: object) -> tuple[float, float]:
        if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(end, (int, float)) for end in value):
            first, last = float(value[0]), float(value[1])
            if 0 <= first <= last <= 1:
                return first, last
        raise UserError(f"{self.label} must be two rising fractions of the steps in [0, 1], got {value!r}")


@dataclass(frozen=True)
class SamplingSettings:
    """How codes are sampled; the keyword arguments of `ImageGenerator.generate`, `inpaint`, `outpaint`, `vary`, `morph`.

    The text of each field says what it does; `setting_fields` lists them with their ranges.

    Raises:
        UserError: a value has the wrong type or is out of range.
    """

    num_inference_steps: int = option(16, "number of sampling steps", ["--steps"], low=1, high=MAX_STEPS)
    sampler: str = option("tweedie", "sampling algorithm, see 'sample.py samplers'", ["--sampler"])
    sampler_options: dict[str, Scalar] = option({}, "an option of the sampler; may be repeated", ["--option"])
    guidance_scale: float = option(
        1.0, "classifier-free guidance scale, as in diffusers; 1 is off", ["--guidance", "--guidance-scale"], low=0
    )
    guidance_ramp: str = option(
        "constant",
        "how guidance grows with the steps, from 1 to its scale; power_cosine grows slowly at first (arXiv 2303.14389)",
        ["--guidance-ramp"],
        choices=GUIDANCE_RAMPS,
    )
    guidance_interval: tuple[float, float] = option(
        (0.0, 1.0), "first and last fraction of the steps with guidance (arXiv 2404.07724)", ["--guidance-interval"]
    )
    temperature: float = option(1.0, "temperature of every code's distribution", ["--temperature"], above=0)
    top_p: float = option(
        1.0, "sample from the fewest codes that hold this probability (nucleus); 1 is off", ["--top-p"], above=0, high=1
    )
    time_spacing: str = option(
        "uniform", "spacing of the time steps", ["--time-spacing", "--step-grid"], choices=TIME_SPACINGS
    )
    skip_unchanged: bool = option(
        True, "reuse the cached prediction of samples whose codes did not change", ["--skip-unchanged"]
    )
    large_grids: str = option(
        "sliding",
        "code grids larger than the trained one: overlapping windows (sliding) or the network on the whole grid (rotary)",
        ["--large-grids"],
        choices=LARGE_GRIDS,
    )

    def __post_init__(self) -> None:
        """Check every field, subclasses' fields too."""
        for field in setting_fields(type(self)):
            object.__setattr__(self, field.name, field.checked(getattr(self, field.name)))

    def updated(self, options: Mapping[str, object]) -> Self:
        """These settings with `options` in place; another sampler drops the old one's options.

        Raises:
            UserError: an unknown option (names the nearest), a wrong type, a value out of range.
        """
        fields = setting_fields(type(self))
        known = [field.name for field in fields]
        for name in options:
            if name not in known:
                nearest = names_by_flag(fields).get(name) or nearest_of(name, known)
                raise UserError(f"unknown sampling option '{name}': the nearest one is '{nearest}'")
        changed = dict(options)
        if changed.get("sampler", self.sampler) != self.sampler:
            changed.setdefault("sampler_options", {})
        return dataclasses.replace(self, **changed)  # type: ignore[arg-type]

    def summary(self) -> str:
        """Sampler with its options, steps and guidance, such as "tweedie, 16 steps, guidance 1"."""
        options = "".join(f", {name} {value}" for name, value in self.sampler_options.items())
        return f"{self.sampler}{options}, {self.num_inference_steps} steps, guidance {self.guidance_scale:g}"

    def metadata(self) -> dict[str, str]:
        """Every setting as text, for the text fields of a PNG."""
        return {name: str(value) for name, value in dataclasses.asdict(self).items()}


def setting_fields(schema: type[SamplingSettings]) -> list[SettingField]:
    """The fields of a settings class, in order."""
    hints = typing.get_type_hints(schema)
    found = []
    for field in dataclasses.fields(schema):
        default: SettingValue
        if field.default_factory is dataclasses.MISSING:
            default = typing.cast(SettingValue, field.default)
        else:
            default = field.default_factory()
        found.append(SettingField(field.name, hints[field.name], default, **field.metadata))
    return found


def names_by_flag(fields: Sequence[SettingField]) -> dict[str, str]:
    """The name of the field for each of its flags, which is written as a keyword: "guidance" for "--guidance"."""
    return {flag.removeprefix("--").replace("-", "_"): field.name for field in fields for flag in field.flags}


def add_sampling_arguments(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, schema: type[SamplingSettings] = SamplingSettings
) -> None:
    """One flag for each field of `schema`; read them with `given_settings`.

    A flag that is not given leaves no trace: the model's generation defaults decide, and after them the field's default.
    """
    for field in setting_fields(schema):
        shown = "none" if isinstance(field.default, Mapping) else field.default
        if isinstance(field.default, tuple):
            shown = " ".join(f"{end:g}" for end in field.default)
        text = f"{field.text} (default: the model's own, else {shown})".replace("%", "%%")
        if field.type is bool:
            parser.add_argument(*field.flags, dest=field.name, action=argparse.BooleanOptionalAction,
                                default=argparse.SUPPRESS, help=text)  # fmt: skip
        elif isinstance(field.default, tuple):
            parser.add_argument(*field.flags, dest=field.name, type=float, nargs=2, metavar=("FROM", "TO"),
                                default=argparse.SUPPRESS, help=text)  # fmt: skip
        elif isinstance(field.default, Mapping):
            parser.add_argument(*field.flags, dest=field.name, type=_name_and_value, action="append",
                                metavar="NAME=VALUE", default=argparse.SUPPRESS, help=text)  # fmt: skip
        else:
            kind: type[int | float | str] = type(field.default)
            metavar = f"{{{','.join(field.choices)}}}" if field.choices else field.label.upper().replace("-", "_")
            parser.add_argument(*field.flags, dest=field.name, type=kind, metavar=metavar, default=argparse.SUPPRESS,
                                help=text)  # fmt: skip


def given_settings(
    args: argparse.Namespace, schema: type[SamplingSettings] = SamplingSettings
) -> dict[str, SettingValue]:
    """The sampling options that a command line gives, checked. Raises UserError for a value out of range."""
    given: dict[str, SettingValue] = {}
    for field in setting_fields(schema):
        if hasattr(args, field.name):
            value = getattr(args, field.name)
            given[field.name] = field.checked(dict(value) if isinstance(field.default, Mapping) else value)
    return given


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form name=value")
    return name, value
