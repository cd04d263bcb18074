"""The values that all tabs have in common, as a browser sends them and as they are checked: label, seed, sampling options."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from common.errors import UserError

if TYPE_CHECKING:
    from app.uploads import Limits
    from diffusion.labels import ClassLabels
    from diffusion.pipeline import ImageGenerator
    from diffusion.settings import SamplingSettings

RANDOM, IN_TURN, NO_CLASS = -1, -2, -3  # labels besides the class numbers
LABEL_WORDS = {NO_CLASS: "none", RANDOM: "random", IN_TURN: "each in turn"}
DEFAULT_SAMPLER = "default"  # in place of a sampler: the one that the model has for what is done
MAX_SEED = 2**32 - 1


class Choices(NamedTuple):
    """The values of a tab's controls, not yet checked.

    Attributes:
        label: a class number, RANDOM, IN_TURN or NO_CLASS.
        seed: a whole number from 0 to MAX_SEED.
        random_seed: whether `seed` is replaced by a random one.
        options: sampling options by the names of the settings' fields; the others have the model's generation defaults.
    """

    label: object
    seed: object = 0
    random_seed: object = False
    options: Mapping[str, object] = {}


@dataclass(frozen=True)
class Request:
    """Choices that are checked. `seed` is the one to use."""

    label: int
    seed: int
    settings: SamplingSettings


def read_choices(
    choices: Choices,
    generator: ImageGenerator,
    limits: Limits,
    make_settings: Callable[..., SamplingSettings] | None = None,
) -> Request:
    """Check the values of the controls.

    Args:
        make_settings: by default `generator.settings`.

    Raises:
        UserError: a value is missing, has another type or is out of range.
    """
    options = dict(choices.options)
    if options.get("sampler") == DEFAULT_SAMPLER:
        del options["sampler"]
    settings = (make_settings or generator.settings)(**options)
    whole_number("steps", settings.num_inference_steps, 1, limits.steps)
    label = whole_number("label", choices.label, NO_CLASS, len(generator.class_names) - 1)
    if not isinstance(choices.random_seed, bool):
        raise UserError(f"random seed must be true or false, got {choices.random_seed}")
    if choices.random_seed:
        return Request(label, secrets.randbelow(MAX_SEED + 1), settings)
    return Request(label, whole_number("seed", choices.seed, 0, MAX_SEED), settings)


def class_labels(label: int, class_names: Sequence[str]) -> ClassLabels:
    """A label of the page as `ImageGenerator` takes it."""
    words: dict[int, ClassLabels] = {RANDOM: "random", NO_CLASS: "none", IN_TURN: list(range(len(class_names)))}
    return words.get(label, label) if class_names else None


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """`value` as an integer. Raises UserError where it is not a whole number in [low, high]."""
    with suppress(ValueError, OverflowError):  # nan, infinity
        if isinstance(value, (int, float)) and low <= value <= high and int(value) == value:
            return int(value)
    raise UserError(f"{name} must be a whole number from {low} to {high}, got {value}")


def fraction(name: str, value: object) -> float:
    """`value` as a number. Raises UserError where it is none above 0 and at most 1."""
    if isinstance(value, (int, float)) and 0 < value <= 1:
        return float(value)
    raise UserError(f"{name} must be a number above 0 and at most 1, got {value}")
