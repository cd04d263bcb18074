"""The jobs of the tabs: each function checks what a browser sent, and returns what the worker has to do.

All raise UserError where a value is missing or out of range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from app.choices import IN_TURN, Choices, Request, class_labels, fraction, read_choices, whole_number
from app.previews import Preview, grid_preview, region_preview
from app.uploads import Limits, read_mask, read_upload
from common.errors import UserError
from diffusion.editing import outpaint_region
from diffusion.variation import shortened_steps
from images.grid import image_grid
from images.mask import image_mask
from images.region import extend_canvas, region_around, whole_region

if TYPE_CHECKING:
    from diffusion.pipeline import ImageGenerator
    from diffusion.request import StepEnd

MAX_COLUMNS = 16  # a grid has one column per class up to this number of classes
MAX_MARGIN, MAX_FEATHER = 8, 64  # codes, pixels
NO_IMAGE = "there is no image yet: choose one first"


class Edges(NamedTuple):
    """How a new part meets the old one, not yet checked: see `ImageGenerator.inpaint`."""

    margin: object = 1
    feather: object = 0

    def checked(self) -> tuple[int, int]:
        """The margin and the blend width. Raises UserError where one is out of range."""
        margin = whole_number("margin", self.margin, 0, MAX_MARGIN)
        return margin, whole_number("feather", self.feather, 0, MAX_FEATHER)


@dataclass(frozen=True)
class Job:
    """What the worker does for one request.

    Attributes:
        name: of the files, such as "repaint".
        summary: what is generated, such as "4 variants".
        request: label, seed and settings, for the files' metadata.
        generate: called with the callback for `ImageGenerator`; returns the results.
        preview: see `app.previews`.
        steps: number of sampling steps; None where there are several runs, one after the other.
        animated: whether the results are also written as an animation.
    """

    name: str
    summary: str
    request: Request
    generate: Callable[[StepEnd], list[Image.Image]]
    preview: Preview
    steps: int | None
    animated: bool = False


def repaint_job(
    generator: ImageGenerator,
    limits: Limits,
    image_path: str | None,
    mask_path: str | None,
    canvas: object,
    variants: object,
    fit: object,
    edges: Edges,
    choices: Choices,
) -> Job:
    """Variants of an uploaded image in its painted part.

    Args:
        canvas: see `app.uploads.read_canvas`.
        fit: see `ImageGenerator.inpaint`.
    """
    request = read_choices(choices, generator, limits, generator.inpainting_settings)
    margin, feather = edges.checked()
    image = read_image_file(image_path, limits)
    count = variant_count(variants, image.size, limits)
    mask = read_mask(canvas, mask_path, image.size, limits)
    pixels, fitted = image_mask(image, mask), fit is True
    region = region_around(pixels, generator.tokenizer.image_size, generator.tokenizer.downsample, fitted)

    def generate(on_step_end: StepEnd) -> list[Image.Image]:
        return generator.inpaint(
            image, mask, count, class_labels(request.label, generator.class_names), fit=fitted,
            margin=margin, feather=feather, seed=request.seed, settings=request.settings, callback_on_step_end=on_step_end,
        )  # fmt: skip

    preview = region_preview(generator, image, pixels, region, feather)
    return Job("repaint", counted(count, "variant"), request, generate, preview, request.settings.num_inference_steps)


def outpaint_job(
    generator: ImageGenerator,
    limits: Limits,
    image_path: str | None,
    sides: Sequence[object],
    variants: object,
    edges: Edges,
    choices: Choices,
) -> Job:
    """Variants of an uploaded image, extended on its `sides`: pixels to add at the left, top, right and bottom."""
    request = read_choices(choices, generator, limits, generator.inpainting_settings)
    margin, feather = edges.checked()
    left, top, right, bottom = (
        whole_number(name, side, 0, limits.extend)
        for name, side in zip(("left", "top", "right", "bottom"), sides, strict=True)
    )
    image = read_image_file(image_path, limits)
    if not any((left, top, right, bottom)):
        raise UserError("nothing to add yet: give a number of pixels on one side at least")
    extended, mask = extend_canvas(image, left, top, right, bottom)
    count = variant_count(variants, extended.size, limits)
    region = outpaint_region(mask, left, top, generator.tokenizer.image_size, generator.tokenizer.downsample)

    def generate(on_step_end: StepEnd) -> list[Image.Image]:
        return generator.outpaint(
            image, left, top, right, bottom, count, class_labels(request.label, generator.class_names),
            margin=margin, feather=feather, seed=request.seed, settings=request.settings, callback_on_step_end=on_step_end,
        )  # fmt: skip

    preview = region_preview(generator, extended, mask, region, feather)
    return Job("outpaint", counted(count, "variant"), request, generate, preview, request.settings.num_inference_steps)


def vary_job(
    generator: ImageGenerator,
    limits: Limits,
    image_path: str | None,
    strength: object,
    variants: object,
    choices: Choices,
) -> Job:
    """Variations of an uploaded image; see `ImageGenerator.vary`."""
    request, noised = read_choices(choices, generator, limits), fraction("strength", strength)
    image = read_image_file(image_path, limits)
    count = variant_count(variants, image.size, limits)

    def generate(on_step_end: StepEnd) -> list[Image.Image]:
        return generator.vary(
            image, noised, count, class_labels(request.label, generator.class_names),
            seed=request.seed, settings=request.settings, callback_on_step_end=on_step_end,
        )  # fmt: skip

    steps = shortened_steps(request.settings.num_inference_steps, noised)
    return Job("vary", counted(count, "variant"), request, generate, whole_preview(generator, image), steps)


def morph_job(
    generator: ImageGenerator,
    limits: Limits,
    image_path: str | None,
    other_path: str | None,
    strength: object,
    frames: object,
    choices: Choices,
) -> Job:
    """Images from one uploaded image to another of the same size; see `ImageGenerator.morph`."""
    request, noised = read_choices(choices, generator, limits), fraction("strength", strength)
    count = whole_number("images", frames, 2, limits.frames)
    image = read_image_file(image_path, limits)
    other = read_image_file(other_path, limits, "there is no last image yet: choose one of the image's size")
    check_pixels(count, image.size, limits)

    def generate(on_step_end: StepEnd) -> list[Image.Image]:
        return generator.morph(
            image, other, count, noised, class_labels(request.label, generator.class_names),
            seed=request.seed, settings=request.settings, callback_on_step_end=on_step_end,
        )  # fmt: skip

    return Job(
        "morph", counted(count, "image"), request, generate, whole_preview(generator, image), None, animated=True
    )


def grid_job(generator: ImageGenerator, limits: Limits, number: object, choices: Choices) -> Job:
    """Generated images in one image grid."""
    request = read_choices(choices, generator, limits)
    count = whole_number("images", number, 1, limits.grid)
    columns = grid_columns(count, request.label, len(generator.class_names))

    def generate(on_step_end: StepEnd) -> list[Image.Image]:
        images = generator.generate(
            count, class_labels(request.label, generator.class_names),
            seed=request.seed, settings=request.settings, callback_on_step_end=on_step_end,
        )  # fmt: skip
        return [image_grid(images, columns)]

    preview = grid_preview(generator, columns)
    return Job("grid", counted(count, "image"), request, generate, preview, request.settings.num_inference_steps)


def grid_columns(count: int, label: int, classes: int) -> int:
    """The number of columns of an image grid: one per class for IN_TURN, else about the number of rows."""
    one_per_class = label == IN_TURN and 1 < classes <= MAX_COLUMNS
    return min(count, classes if one_per_class else math.ceil(math.sqrt(count)))


def read_image_file(path: str | None, limits: Limits, missing: str = NO_IMAGE) -> Image.Image:
    """An uploaded image; `missing` is the message where there is none."""
    if path is None:
        raise UserError(missing)
    return read_upload(path, limits)


def variant_count(variants: object, size: tuple[int, int], limits: Limits) -> int:
    """The checked number of variants of (width, height) pixels."""
    count = whole_number("variants", variants, 1, limits.variants)
    check_pixels(count, size, limits)
    return count


def check_pixels(count: int, size: tuple[int, int], limits: Limits) -> None:
    """Raise UserError where `count` images of (width, height) pixels are more than memory should hold."""
    most = limits.all_pixels // (size[0] * size[1])
    if count > max(1, most):
        raise UserError(
            f"at most {max(1, most)} images of {size[0]} x {size[1]} pixels are made at once: "
            "ask for fewer, or make the image smaller"
        )


def whole_preview(generator: ImageGenerator, image: Image.Image) -> Preview:
    """Previews of a whole image."""
    tokenizer = generator.tokenizer
    region = whole_region(image.width, image.height, tokenizer.image_size, tokenizer.downsample)
    return region_preview(generator, image, None, region)


def counted(count: int, thing: str) -> str:
    """Such as "1 image" or "3 images"."""
    return f"{count} {thing}{'s' if count > 1 else ''}"
