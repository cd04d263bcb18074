"""Variations of an image, and morphing between two: sampling that starts from noised codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from diffusion.editing import ImageEditing, Images, grid_of
from diffusion.labels import ClassLabels
from diffusion.progress import part_of
from diffusion.request import (
    MAX_CODES,
    MAX_IMAGES,
    Conditioning,
    Request,
    RequestOption,
    sample_generator,
    whole_number,
)
from diffusion.sampler import planned_calls
from images.convert import Array, ImageInput, OutputType, as_pil, to_output
from images.modes import to_model_mode
from images.region import Region, crop_region, paste_region, whole_region


class ImageVariation(ImageEditing):
    """The varying methods of `diffusion.pipeline.ImageGenerator`, whose docstring lists their common keywords."""

    @overload
    def vary(
        self, image: ImageInput, strength: float = ..., n: int = ..., class_labels: ClassLabels = ...,
        *, output_type: Literal["pil"] = ..., **options: RequestOption,
    ) -> list[Image.Image]: ...  # fmt: skip
    @overload
    def vary(
        self, image: ImageInput, strength: float = ..., n: int = ..., class_labels: ClassLabels = ...,
        *, output_type: Literal["np"], **options: RequestOption,
    ) -> Array: ...  # fmt: skip
    @overload
    def vary(
        self, image: ImageInput, strength: float = ..., n: int = ..., class_labels: ClassLabels = ...,
        *, output_type: Literal["pt"], **options: RequestOption,
    ) -> Tensor: ...  # fmt: skip
    def vary(
        self,
        image: ImageInput,
        strength: float = 0.5,
        n: int = 1,
        class_labels: ClassLabels = None,
        *,
        output_type: OutputType = "pil",
        **options: RequestOption,
    ) -> Images:
        """Variations: noise the image's codes until a fraction `strength` in (0, 1] is hit, and denoise from there.

        As image-to-image in diffusers (SDEdit, arXiv 2108.01073): `num_inference_steps` counts the steps of a whole run,
        of which a fraction `strength` is taken. At 1 nothing of the image is left. Sampler informed_corrector samples
        codes again wherever they are, so that more changes than `strength` says. The alpha channel is kept.

        Raises:
            UserError: another strength, an image smaller than a code or too large to sample at once, and as `generate`.

        Example:
            >>> from diffusion.pipeline import ImageGenerator
            >>> generator = ImageGenerator.from_pretrained("runs/mnist")
            >>> digit = generator.generate(class_labels=3)[0]
            >>> [variant.size for variant in generator.vary(digit, strength=0.4, n=2)]
            [(32, 32), (32, 32)]
        """
        if not 0 < strength <= 1:
            raise UserError(f"strength must lie in (0, 1], got {strength}: near 0 changes little, 1 keeps nothing")
        self.check_keywords(self.vary, options)
        labels = self.classes.editing_numbers(class_labels)
        request = _shortened(self.request(n, labels, output_type, options), strength)
        pixels = as_pil(image)
        region, codes = self._encode_whole(pixels)
        everywhere = np.ones((pixels.height, pixels.width), dtype=bool)
        start = Conditioning(grid_of(codes), origin=None if strength == 1 else codes, strength=strength)
        variants = [
            paste_region(pixels, everywhere, decoded, region)
            for sampled in self.sample_batches(request, start)
            for decoded in self.decode(sampled.codes)
        ]
        return to_output(variants, output_type)

    @overload
    def morph(
        self, image: ImageInput, other: ImageInput, n: int = ..., strength: float = ..., class_labels: ClassLabels = ...,
        *, output_type: Literal["pil"] = ..., **options: RequestOption,
    ) -> list[Image.Image]: ...  # fmt: skip
    @overload
    def morph(
        self, image: ImageInput, other: ImageInput, n: int = ..., strength: float = ..., class_labels: ClassLabels = ...,
        *, output_type: Literal["np"], **options: RequestOption,
    ) -> Array: ...  # fmt: skip
    @overload
    def morph(
        self, image: ImageInput, other: ImageInput, n: int = ..., strength: float = ..., class_labels: ClassLabels = ...,
        *, output_type: Literal["pt"], **options: RequestOption,
    ) -> Tensor: ...  # fmt: skip
    def morph(
        self,
        image: ImageInput,
        other: ImageInput,
        n: int = 8,
        strength: float = 0.5,
        class_labels: ClassLabels = None,
        *,
        output_type: OutputType = "pil",
        **options: RequestOption,
    ) -> Images:
        """`n` images from one image to another of the same size, through partially noised codes.

        In frame i a fraction i / (n - 1) of the codes, always the same ones first, comes from the other image. Noise hits
        a fraction of up to `strength`, most in the middle and none at the ends, and is removed with the same random
        numbers in every frame. The frames have no alpha channel: transparent pixels are white.

        Raises:
            UserError: images of two sizes, fewer than two frames, several generators, and as `vary`.

        Example:
            >>> from diffusion.pipeline import ImageGenerator
            >>> generator = ImageGenerator.from_pretrained("runs/mnist")
            >>> first, last = generator.generate(n=2, class_labels=[3, 8])
            >>> len(generator.morph(first, last, n=5))
            5
        """
        self.check_keywords(self.morph, options)
        frames = list(self.morph_frames(image, other, n, strength, class_labels, options, output_type))
        return to_output(frames, output_type)

    def morph_frames(
        self,
        image: ImageInput,
        other: ImageInput,
        n: int,
        strength: float,
        class_labels: ClassLabels,
        options: Mapping[str, RequestOption],
        output_type: OutputType = "pil",
    ) -> Iterator[Image.Image]:
        """The images of `morph` one after the other, all PIL. Raises UserError as `morph`, before the first."""
        if not 0 < strength <= 1:
            raise UserError(f"strength must lie in (0, 1], got {strength}")
        n = whole_number("the number of images", n, 2, MAX_IMAGES)
        first, last = (to_model_mode(as_pil(one), self.tokenizer.channels) for one in (image, other))
        if first.size != last.size:
            raise UserError(
                f"one image is {first.width} x {first.height} and the other {last.width} x {last.height}: "
                "make them the same size"
            )
        if not isinstance(options.get("generator"), (torch.Generator, type(None))):
            raise UserError("a morph takes one generator: its images are sampled with the same random numbers")
        request = self.request(1, self.classes.editing_numbers(class_labels), output_type, options)
        (region, start), (_, end) = self._encode_whole(first), self._encode_whole(last)
        return self._morph(request, first.size, region, start, end, n, strength)

    def _morph(
        self,
        request: Request,
        size: tuple[int, int],
        region: Region,
        start: Tensor,
        end: Tensor,
        n: int,
        strength: float,
    ) -> Iterator[Image.Image]:
        everywhere = np.ones((size[1], size[0]), dtype=bool)
        canvas = Image.new("RGB" if self.tokenizer.channels == 3 else "L", size)
        order = torch.rand(start.shape, generator=sample_generator(request.seed, 0)).to(self.device)
        fractions = [i / (n - 1) for i in range(n)]
        strengths = [strength * 4 * fraction * (1 - fraction) for fraction in fractions]
        steps = Counter(shortened_steps(request.settings.num_inference_steps, noised) for noised in strengths[1:-1])
        total = sum(times * planned_calls(request.settings, number) for number, times in steps.items())
        done = 0
        for i in range(n):
            codes = torch.where(order < fractions[i], end, start)
            if 0 < i < n - 1:
                one = _shortened(replace(request, progress=part_of(request.progress, done, total)), strengths[i])
                conditioning = Conditioning(grid_of(start), origin=codes, strength=strengths[i])
                codes = next(self.sample_batches(one, conditioning)).codes
                done += planned_calls(one.settings)
            yield paste_region(canvas, everywhere, self.decode(codes)[0], region)

    def _encode_whole(self, image: Image.Image) -> tuple[Region, Tensor]:
        self._check_side(image)
        region = whole_region(*image.size, self.tokenizer.image_size, self.tokenizer.downsample)
        height, width = (side // self.tokenizer.downsample for side in region.size)
        if height * width > MAX_CODES:
            raise UserError(
                f"an image of {image.width} x {image.height} needs {width} x {height} codes, and at most {MAX_CODES} "
                "are sampled at once: make it smaller or less narrow"
            )
        window, _ = crop_region(image, None, region, self.tokenizer.channels)
        return region, self.tokenizer.encode(window.to(self.device))


def _shortened(request: Request, fraction: float) -> Request:
    """The request with a `fraction` of its steps."""
    steps = shortened_steps(request.settings.num_inference_steps, fraction)
    return replace(request, settings=request.settings.updated({"num_inference_steps": steps}))


def shortened_steps(steps: int, fraction: float) -> int:
    """The number of steps of a run that begins from codes of which noise has hit a `fraction`: at least one."""
    return max(1, round(steps * fraction))
