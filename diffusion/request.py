"""What a user asks of an ImageGenerator: how many samples of which classes, with which settings, from which start."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, cast

import torch
from torch import Tensor

from common.errors import UserError
from common.seeds import derived_seed
from diffusion.labels import RANDOM_CLASS
from diffusion.progress import ProgressCallback
from diffusion.settings import SamplingSettings, SettingValue
from images.convert import OUTPUT_TYPES, OutputType

Generators = torch.Generator | Sequence[torch.Generator] | None
# (ImageGenerator, step from 0, time left in [0, 1], {"codes": (n, h, w) in [0, K], K is masked}) -> None or {"codes": others}
StepEnd = Callable[..., Mapping[str, Tensor] | None]
RequestOption = SamplingSettings | SettingValue | Generators | StepEnd | ProgressCallback | None
MAX_CODES = 16_384  # positions that are sampled at once: with 1,024 codes 134 MB an array of float64 probabilities
MAX_IMAGES = 1_000_000  # of one call, which returns them together


class CodesToImages(Protocol):
    """What the generator needs of a tokenizer; `vq.tokenizer.Tokenizer` is one."""

    image_size: int
    channels: int
    downsample: int
    codebook_size: int

    def encode(self, images: Tensor) -> Tensor:
        """Codes `(B, h, w)` of images `(B, C, H, W)` in [-1, 1]."""

    def decode(self, codes: Tensor) -> Tensor:
        """Images `(B, C, h f, w f)` in [-1, 1] of codes `(B, h, w)`."""

    def to(self, device: torch.device) -> Self:
        """The tokenizer on `device`."""


class SampledCodes(NamedTuple):
    """Codes `(n, h, w)`, the network calls for each sample `(n,)`, and the samples' labels `(n,)`."""

    codes: Tensor
    network_calls: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Conditioning:
    """What sampling starts from, apart from random numbers: codes of `grid`, by default the model's own.

    Attributes:
        grid: (h, w).
        known: codes `(1 or n, h, w)`; they stay wherever `hidden` (bool, the same shape) is False.
        origin: codes `(1 or n, h, w)` to noise until a fraction `strength` of them is hit, and to denoise from there.
    """

    grid: tuple[int, int] | None = None
    known: Tensor | None = None
    hidden: Tensor | None = None
    origin: Tensor | None = None
    strength: float = 1.0


FROM_LIMIT = Conditioning()


@dataclass(frozen=True)
class Request:
    """What was asked for, checked.

    Attributes:
        n: number of samples.
        labels: class numbers, taken in turn; RANDOM_CLASS samples one of the `classes` classes.
        first: index of the first sample under `seed`.
        generators: CPU generators, one a sample; None: those of `seed`.
        progress: told the network calls.
    """

    n: int
    labels: Sequence[int]
    classes: int
    settings: SamplingSettings
    seed: int = 0
    first: int = 0
    generators: Sequence[torch.Generator] | None = None
    callback: StepEnd | None = None
    progress: ProgressCallback | None = None

    def batch(self, begin: int, count: int) -> tuple[Sequence[torch.Generator], Tensor]:
        """Generators and labels `(count,)` of samples `begin` to `begin + count - 1`."""
        place = self.first + begin
        if self.generators is None:
            generators: Sequence[torch.Generator] = [sample_generator(self.seed, place + i) for i in range(count)]
        else:
            generators = self.generators[begin : begin + count]
        labels = [self.labels[(place + i) % len(self.labels)] for i in range(count)]
        for i, generator in enumerate(generators):
            if labels[i] == RANDOM_CLASS:
                labels[i] = int(torch.randint(self.classes, (1,), generator=generator))
        return generators, torch.tensor(labels)


def make_request(
    n: int,
    labels: Sequence[int],
    classes: int,
    output_type: OutputType,
    options: Mapping[str, RequestOption],
    make_settings: Callable[..., SamplingSettings],
) -> Request:
    """Check what was asked for. Raises UserError.

    Args:
        labels: class numbers or RANDOM_CLASS, taken in turn; classes: how many classes there are.
        options: seed, first, generator, callback_on_step_end, progress and settings; all others are fields of the settings.
    """
    given = dict(options)
    n = whole_number("the number of images", n, 1, MAX_IMAGES)
    seed = whole_number("the seed", given.pop("seed", 0))
    first = whole_number("first", given.pop("first", 0))
    generator = cast(Generators, given.pop("generator", None))
    callback = cast(StepEnd | None, given.pop("callback_on_step_end", None))
    progress = cast(ProgressCallback | None, given.pop("progress", None))
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got '{output_type}'")
    settings = make_settings(given.pop("settings", None), **given)
    generators = None
    if isinstance(generator, torch.Generator):
        seed = seed_from(generator)
    elif generator is not None:
        generators = list(generator)
        if len(generators) != n:
            raise UserError(f"{n} images need {n} generators or one, got {len(generators)}")
    return Request(n, labels, classes, settings, seed, first, generators, callback, progress)


def whole_number(name: str, value: object, low: int = 0, high: int | None = None) -> int:
    """`value` as an int. Raises UserError where it is not a whole number of at least `low` and at most `high`."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise UserError(f"{name} must be a whole number, got {value!r}") from error
    if number < low or (high is not None and number > high):
        raise UserError(f"{name} must be at least {low}{'' if high is None else f' and at most {high}'}, got {number}")
    return number


def seed_from(generator: torch.Generator) -> int:
    """A seed taken from `generator`, so that the next call with it gives other images."""
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The random generator of sample `index` under `seed`: the same on every device and in every batch."""
    return torch.Generator().manual_seed(derived_seed(seed, index))
