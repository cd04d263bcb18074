"""The labels of a command: which class each image gets, and what the user should know about it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from common.errors import print_note
from diffusion.labels import NO_CLASS_WORD, RANDOM_CLASS, RANDOM_WORD
from diffusion.pipeline import ImageGenerator
from diffusion.settings import SamplingSettings

NAMED = 10  # classes that a note names


def labels_text(generator: ImageGenerator, numbers: Sequence[int]) -> str:
    """The labels for the metadata: names in the order in which they are taken in turn, "none" or "random"."""
    return ", ".join(generator.class_name(number) for number in numbers)


def label_names(generator: ImageGenerator, numbers: Sequence[int], seed: int, first: int, count: int) -> list[str]:
    """The class names of samples `first` to `first + count - 1` under `seed`."""
    request = generator.request(count, numbers, "pil", {"seed": seed, "first": first})
    return [generator.class_name(label) for label in request.batch(0, count)[1].tolist()]


def print_label_notes(
    args: Namespace, generator: ImageGenerator, numbers: Sequence[int], settings: SamplingSettings
) -> None:
    """Say on stderr what was decided about labels, where the user did not say it."""
    for word in {NO_CLASS_WORD, RANDOM_WORD} & set(args.label or []) & set(generator.class_names):
        print_note(f"--label {word} is the class of that name")
    if args.label is None and args.command != "grid" and RANDOM_CLASS in numbers:
        count = 1 if args.command == "morph" else args.n  # all images of a morph share one sample's label
        names = label_names(generator, numbers, args.seed, 0, min(count, NAMED))
        more = ", ..." if count > NAMED else ""
        print_note(
            "this model was trained without label dropout and needs a class; random ones were taken: "
            f"{', '.join(names)}{more}; --label chooses"
        )
    if generator.class_names and settings.guidance_scale != 1 and set(numbers) == {generator.classes.no_class}:
        print_note("guidance acts towards a class, and changes nothing without one: give --label")
