"""What a user asks of an ImageGenerator: how many samples of which classes, with which settings, from which start."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, cast

import torch
from torch import Tensor

from common.errors import UserError
from common.seeds import derived_seed
from diffusion.settings import SamplingSettings, SettingValue
from images.convert import OUTPUT_TYPES, OutputType

ClassLabels = int | str | Sequence[int | str] | None
Generators = torch.Generator | Sequence[torch.Generator] | None
# (ImageGenerator, step from 0, time left in [0, 1], {"codes": (n, h, w) in [0, K], K is masked}) -> None or {"codes": others}
StepEnd = Callable[..., Mapping[str, Tensor] | None]
RequestOption = SamplingSettings | SettingValue | Generators | StepEnd | None
MAX_CODES = 16_384  # positions that are sampled at once: with 1,024 codes 134 MB an array of float64 probabilities


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
        labels: class numbers, taken in turn; None samples them uniformly.
        first: index of the first sample under `seed`.
        generators: CPU generators, one a sample; None: those of `seed`.
    """

    n: int
    labels: Sequence[int] | None
    settings: SamplingSettings
    seed: int = 0
    first: int = 0
    generators: Sequence[torch.Generator] | None = None
    callback: StepEnd | None = None

    def batch(self, begin: int, count: int, classes: int) -> tuple[Sequence[torch.Generator], Tensor]:
        """Generators and labels `(count,)` of samples `begin` to `begin + count - 1`; 0 for a model without classes."""
        if self.generators is None:
            generators: Sequence[torch.Generator] = [
                sample_generator(self.seed, self.first + begin + i) for i in range(count)
            ]
        else:
            generators = self.generators[begin : begin + count]
        if self.labels is not None:
            place = self.first + begin
            return generators, torch.tensor([self.labels[(place + i) % len(self.labels)] for i in range(count)])
        if not classes:
            return generators, torch.zeros(count, dtype=torch.int64)
        return generators, torch.cat([torch.randint(classes, (1,), generator=generator) for generator in generators])


def make_request(
    n: int,
    class_labels: ClassLabels,
    output_type: OutputType,
    options: Mapping[str, RequestOption],
    class_names: Sequence[str],
    make_settings: Callable[..., SamplingSettings],
) -> Request:
    """Check what was asked for. Raises UserError.

    Args:
        options: seed, first, generator, callback_on_step_end and settings; all others are fields of the settings.
    """
    given = dict(options)
    seed, first = (given.pop(name, 0) for name in ("seed", "first"))
    generator = cast(Generators, given.pop("generator", None))
    callback = cast(StepEnd | None, given.pop("callback_on_step_end", None))
    if n < 1 or not isinstance(seed, int) or seed < 0 or not isinstance(first, int):
        raise UserError(f"the number of images must be at least 1 and the seed not negative, got {n} and {seed}")
    labels = class_numbers(class_labels, class_names)
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
    return Request(n, labels, settings, seed, first, generators, callback)


def class_numbers(wanted: ClassLabels, class_names: Sequence[str]) -> list[int] | None:
    """The numbers of one or several classes, None for None. Raises UserError for an unknown one and an empty list."""
    if wanted is None:
        return None
    listed = list(wanted) if isinstance(wanted, Iterable) and not isinstance(wanted, str) else [wanted]
    if not listed:
        raise UserError("class_labels is an empty list: give labels, or None for random ones")
    return [class_number(one, class_names) for one in listed]


def class_number(wanted: int | str, class_names: Sequence[str]) -> int:
    """The number of a class, given as its number or its name. Raises UserError for an unknown one."""
    count = len(class_names)
    if isinstance(wanted, str):
        if wanted in class_names:
            return list(class_names).index(wanted)
        if not wanted.removeprefix("-").isdecimal():
            known = f"has the classes {', '.join(class_names[:20])}" if count else "has no classes"
            raise UserError(f"unknown class '{wanted}': this model {known}")
        wanted = int(wanted)
    wanted = operator.index(wanted)
    if not 0 <= wanted < count:
        known = f"0 to {count - 1} ({', '.join(class_names[:10])})" if count else "none: it has no classes"
        raise UserError(f"label {wanted} is out of range: this model knows {known}")
    return wanted


def seed_from(generator: torch.Generator) -> int:
    """A seed taken from `generator`, so that the next call with it gives other images."""
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The random generator of sample `index` under `seed`: the same on every device and in every batch."""
    return torch.Generator().manual_seed(derived_seed(seed, index))
