"""The likelihood of the reference images' codes under the prior."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from evaluation.report import Part

if TYPE_CHECKING:
    from diffusion.pipeline import ImageGenerator
    from diffusion.prior import Prior

POINTS = 16  # noise levels at which every image is scored
NAMES_SHOWN = 5  # of unknown classes
NO_IMAGES = "not scored: the model knows the class of no image, and it was trained without label dropout"


@dataclass(frozen=True)
class ClassMatch:
    """How the classes of the reference meet those of a model.

    Attributes:
        known: number of images of a class that the model knows; scored given that class.
        without: number of the other images; scored without a class, or left out where the model was not trained for it.
        unknown: their class names with the number of images; "" for images that have no class.
        classes: whether the model has classes.
        left_out: whether the images `without` are left out.
    """

    known: int
    without: int
    unknown: Mapping[str, int]
    classes: bool
    left_out: bool

    def bounded(self) -> str:
        """Name of the bound that the mean over the images is one of."""
        scored_without = 0 if self.left_out else self.without
        if not self.known:
            return "upper bound on -log p(codes) of the reference's codes" if scored_without else NO_IMAGES
        if not scored_without:
            return "upper bound on -log p(codes | class) of the reference's codes"
        return (
            f"mean over images of upper bounds: on -log p(codes | class) of {self.known} images, "
            f"and on -log p(codes) of {scored_without} images"
        )

    def note(self) -> str:
        """What the user should know of it, "" where every image has a known class or the model has none."""
        if not (self.classes and self.without):
            return ""
        named = ", ".join(f"'{name}'" for name in self.names_shown())
        more = f", and {len(self.named()) - NAMES_SHOWN} more" if len(self.named()) > NAMES_SHOWN else ""
        reasons = [f"unknown classes: {named}{more}"] if named else []
        if "" in self.unknown:
            reasons.append(f"{self.unknown['']} without a class folder")
        fate = "are left out, as the model was trained without label dropout" if self.left_out else "without a class"
        return f"likelihood: {self.known} images are scored given their class, {self.without} {fate} ({'; '.join(reasons)})"

    def named(self) -> list[str]:
        """Unknown classes, sorted."""
        return sorted(name for name in self.unknown if name)

    def names_shown(self) -> list[str]:
        """The first of the unknown classes."""
        return self.named()[:NAMES_SHOWN]

    def part(self) -> Part:
        """The same for the report."""
        return {
            "images_with_class": self.known,
            "images_without_class": 0 if self.left_out else self.without,
            "images_left_out": self.without if self.left_out else 0,
            "unknown_classes": {"count": len(self.named()), "first": self.names_shown()},
        }


def match_classes(classes: Mapping[str, int], prior: Prior) -> ClassMatch:
    """Compare the reference's classes, with their numbers of images, with the model's; "" is no class."""
    known = set(prior.class_names)
    unknown = {name: count for name, count in classes.items() if name not in known}
    without = sum(unknown.values())
    # The embedding of "no class" is trained by label dropout alone.
    left_out = bool(known) and not prior.guided
    return ClassMatch(sum(classes.values()) - without, without, unknown, bool(known), left_out)


def class_labels(classes: Sequence[str], known: Sequence[str]) -> Tensor:
    """Labels `(N,)` by the model's list `known`; "no class" (its length) for every name that is not in it."""
    number = {name: index for index, name in enumerate(known)}
    return torch.tensor([number.get(name, len(known)) for name in classes], dtype=torch.int64)


def score_likelihood(generator: ImageGenerator, codes: Tensor, classes: Sequence[str], seed: int) -> Part:
    """The bound on the likelihood of codes `(N, h, w)`, each given its class where the model knows that.

    Images of other classes are scored without a class, or left out of the mean where the model was trained without label
    dropout: it has no prediction without a class.

    Args:
        classes: N names, "" for an image without a class.
        seed: of the noise.
    """
    prior = generator.prior
    match = match_classes(Counter(classes), prior)
    labels = class_labels(classes, prior.class_names)
    if match.left_out:
        codes, labels = codes[labels < prior.no_class], labels[labels < prior.no_class]
    nats = error = None
    if len(codes):
        with tqdm(total=len(codes) * POINTS, desc=f"likelihood of {len(codes)} images", unit="noised image") as bar:
            bound = prior.likelihood(
                codes.to(generator.device), labels.to(generator.device), torch.Generator().manual_seed(seed % 2**64), POINTS,
                progress=bar.update,
            )  # fmt: skip
        nats, error = bound.nats, bound.standard_error
    dimensions = generator.tokenizer.channels * generator.tokenizer.downsample**2  # numbers that one code stands for
    return {
        "what": match.bounded(),
        "images": len(codes),
        **match.part(),
        "nats_per_code": nats,
        "bits_per_code": in_bits(nats),
        "bits_per_code_standard_error": in_bits(error),
        "bits_per_dimension": None if nats is None else nats / math.log(2) / dimensions,
    }


def in_bits(nats: float | None) -> float | None:
    """`nats` in bits, None for None."""
    return None if nats is None else nats / math.log(2)
