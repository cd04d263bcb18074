"""Inpainting and outpainting: sampling with known codes.

Hidden pixels are never read and kept pixels are never written: the mask is blanked before encoding, every code that a hidden
pixel lies in is sampled, and results are pasted back under the mask alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal, overload

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.errors import UserError
from diffusion.code_generator import CodeGenerator
from diffusion.labels import ClassLabels
from diffusion.request import MAX_CODES, Conditioning, Request, RequestOption, whole_number
from diffusion.settings import SamplingSettings
from images.convert import Array, ImageInput, OutputType, as_pil, to_output
from images.mask import Box, Mask, image_mask, mask_doubt
from images.region import Region, crop_region, extend_canvas, paste_region, region_around

log = logging.getLogger(__name__)
Images = list[Image.Image] | Array | Tensor
# Correcting codes after each step lets them adapt to the known ones. Exact on two codes (tests/diffusion/test_truths.py): at
# 16 steps the total variation from the conditional distribution is 0.03, and 0.19 without corrections (0.17 at 256 steps).
INPAINTING_CORRECTIONS = {"corrections": 12, "churn": 1.0}


def mask_to_codes(mask: Tensor, downsample: int, margin: int = 1) -> Tensor:
    """Codes that a pixel mask hides: bool `(B, H, W)` -> bool `(B, H / f, W / f)`.

    A code is hidden where any pixel of its f x f footprint is, and so are the `margin` codes around it, because encoder
    and decoder look at neighbours.
    """
    hidden = F.max_pool2d(mask[:, None].float(), downsample)
    return F.max_pool2d(hidden, 2 * margin + 1, stride=1, padding=margin)[:, 0] > 0


def outpaint_region(mask: Mask, left: int, top: int, size: int, downsample: int) -> Region:
    """The region to work on when an image is extended: all of it, or the part around the added pixels where it is large.

    Args:
        mask: the added pixels of the extended image, bool `(H, W)`.
        left, top: the number of pixels added there.
        size: side in pixels of the model's training images.
        downsample: f.
    """
    # Begin a whole number of codes before the old image, so that its first pixel is the first of a code.
    begin = (-(-left % downsample), -(-top % downsample))
    lengths = zip(mask.shape[::-1], begin, strict=True)
    sides = [max(size, -(-(length - first) // downsample) * downsample) for length, first in lengths]
    if sides[0] * sides[1] > MAX_CODES * downsample**2:
        return region_around(mask, size, downsample)
    return Region((*begin, begin[0] + sides[0], begin[1] + sides[1]), (sides[1], sides[0]))


class ImageEditing(CodeGenerator):
    """The inpainting methods of `diffusion.pipeline.ImageGenerator`, whose docstring lists their common keywords.

    All return images of the input's size (extended, where asked), in its mode if that is L, LA, RGB, RGBA or 16-bit grey,
    otherwise in L, RGB or RGBA.
    """

    def inpainting_settings(self, base: SamplingSettings | None = None, /, **options: object) -> SamplingSettings:
        """As `settings`, for `inpaint` and `outpaint`. Raises UserError.

        On the uniform graph a plain sampler does not converge to the distribution of the hidden codes given the known
        ones. There predictor_corrector with INPAINTING_CORRECTIONS is the default, 13 network calls a step, unless
        `base`, `options` or the model's generation defaults name a sampler (defaults: another one than SamplingSettings').
        """
        chosen = base is not None or "sampler" in options or self.defaults.sampler != SamplingSettings().sampler
        if not chosen and not self.prior.graph.is_masked:
            given = options.get("sampler_options")
            more = given if isinstance(given, Mapping) else {}
            corrections = {**INPAINTING_CORRECTIONS, **more}
            options = {**options, "sampler": "predictor_corrector", "sampler_options": corrections}
        return self.settings(base, **options)

    @overload
    def inpaint(
        self, image: ImageInput, mask_image: ImageInput | None = ..., n: int = ..., class_labels: ClassLabels = ...,
        boxes: Sequence[Box] = ..., margin: int = ..., feather: int = ..., fit: bool = ...,
        *, output_type: Literal["pil"] = ..., **options: RequestOption,
    ) -> list[Image.Image]: ...  # fmt: skip
    @overload
    def inpaint(
        self, image: ImageInput, mask_image: ImageInput | None = ..., n: int = ..., class_labels: ClassLabels = ...,
        boxes: Sequence[Box] = ..., margin: int = ..., feather: int = ..., fit: bool = ...,
        *, output_type: Literal["np"], **options: RequestOption,
    ) -> Array: ...  # fmt: skip
    @overload
    def inpaint(
        self, image: ImageInput, mask_image: ImageInput | None = ..., n: int = ..., class_labels: ClassLabels = ...,
        boxes: Sequence[Box] = ..., margin: int = ..., feather: int = ..., fit: bool = ...,
        *, output_type: Literal["pt"], **options: RequestOption,
    ) -> Tensor: ...  # fmt: skip
    def inpaint(
        self,
        image: ImageInput,
        mask_image: ImageInput | None = None,
        n: int = 1,
        class_labels: ClassLabels = None,
        boxes: Sequence[Box] = (),
        margin: int = 1,
        feather: int = 0,
        fit: bool = False,
        *,
        output_type: OutputType = "pil",
        **options: RequestOption,
    ) -> Images:
        """Repaint where `mask_image` is white (128 and above) or in `boxes`; all other pixels come back identical.

        Repainted pixels become opaque. A mask that may be meant otherwise is named in the log, see
        `images.mask.mask_doubt`.

        Works in a window of the model's size around the mask at the image's own resolution, or in sliding windows where
        the mask is larger, and pastes the hidden pixels back.

        Args:
            image, mask_image: PIL, or arrays `(H, W[, C])` and tensors `(C, H, W)`: uint8, or floats in [0, 1].
            n: number of variants.
            class_labels: as in the class's docstring; None is no class where the model was trained with label dropout.
            boxes: (left, top, right, bottom) in pixels. Without boxes and mask, transparent pixels are repainted.
            margin: codes around the mask that are sampled again, for a better fit; their pixels outside it are kept.
            feather: blend width: pixels inside the mask over which its colours approach those of the nearest kept pixel.
            fit: scale a square around the mask, as large as the image allows, to the model's size, instead of working at
                the image's resolution. Always done for images narrower than the model.

        Raises:
            UserError: a mask of another size or without white, a box outside the image, and as `generate`.

        Example:
            >>> from diffusion.pipeline import ImageGenerator
            >>> generator = ImageGenerator.from_pretrained("runs/mnist")
            >>> digit = generator.generate(class_labels=3)[0]
            >>> [variant.size for variant in generator.inpaint(digit, boxes=[(0, 16, 32, 32)], n=2)]
            [(32, 32), (32, 32)]
        """
        self.check_keywords(self.inpaint, options)
        labels = self.classes.editing_numbers(class_labels)
        return self._inpaint(n, labels, image, mask_image, output_type, options, boxes, margin, feather, fit)

    def _inpaint(
        self,
        n: int,
        labels: Sequence[int],
        image: ImageInput,
        mask_image: ImageInput | None,
        output_type: OutputType,
        options: Mapping[str, RequestOption],
        boxes: Sequence[Box] = (),
        margin: int = 1,
        feather: int = 0,
        fit: bool = False,
    ) -> Images:
        request = self.request(n, labels, output_type, options, self.inpainting_settings)
        pixels = as_pil(image)
        mask_pixels = None if mask_image is None else as_pil(mask_image)
        mask = image_mask(pixels, mask_pixels, boxes)
        if mask_pixels is not None and (doubt := mask_doubt(mask_pixels)):
            log.warning(doubt)
        region = region_around(mask, self.tokenizer.image_size, self.tokenizer.downsample, fit)
        painted = self._repaint(request, pixels, mask, region, margin, feather)
        return to_output(painted, output_type)

    @overload
    def outpaint(
        self, image: ImageInput, left: int = ..., top: int = ..., right: int = ..., bottom: int = ..., n: int = ...,
        class_labels: ClassLabels = ..., margin: int = ..., feather: int = ...,
        *, output_type: Literal["pil"] = ..., **options: RequestOption,
    ) -> list[Image.Image]: ...  # fmt: skip
    @overload
    def outpaint(
        self, image: ImageInput, left: int = ..., top: int = ..., right: int = ..., bottom: int = ..., n: int = ...,
        class_labels: ClassLabels = ..., margin: int = ..., feather: int = ...,
        *, output_type: Literal["np"], **options: RequestOption,
    ) -> Array: ...  # fmt: skip
    @overload
    def outpaint(
        self, image: ImageInput, left: int = ..., top: int = ..., right: int = ..., bottom: int = ..., n: int = ...,
        class_labels: ClassLabels = ..., margin: int = ..., feather: int = ...,
        *, output_type: Literal["pt"], **options: RequestOption,
    ) -> Tensor: ...  # fmt: skip
    def outpaint(
        self,
        image: ImageInput,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        n: int = 1,
        class_labels: ClassLabels = None,
        margin: int = 1,
        feather: int = 0,
        *,
        output_type: OutputType = "pil",
        **options: RequestOption,
    ) -> Images:
        """Extend an image by pixels on each side, in sliding windows at its own resolution; its own pixels stay identical.

        Raises:
            UserError: no pixel to add, and as `inpaint`.

        Example:
            >>> from diffusion.pipeline import ImageGenerator
            >>> generator = ImageGenerator.from_pretrained("runs/mnist")
            >>> digit = generator.generate(class_labels=3)[0]
            >>> generator.outpaint(digit, left=8, right=24)[0].size
            (64, 32)
        """
        self.check_keywords(self.outpaint, options)
        labels = self.classes.editing_numbers(class_labels)
        request = self.request(n, labels, output_type, options, self.inpainting_settings)
        canvas, mask = extend_canvas(as_pil(image), left, top, right, bottom)
        region = outpaint_region(mask, left, top, self.tokenizer.image_size, self.tokenizer.downsample)
        painted = self._repaint(request, canvas, mask, region, margin, feather, beyond=True)
        return to_output(painted, output_type)

    def _repaint(
        self,
        request: Request,
        image: Image.Image,
        mask: Array,
        region: Region,
        margin: int,
        feather: int,
        beyond: bool = False,
    ) -> list[Image.Image]:
        margin, feather = whole_number("margin", margin), whole_number("feather", feather)
        step = self.tokenizer.downsample
        self._check_side(image)
        if region.size[0] * region.size[1] // step**2 > MAX_CODES:
            raise UserError(
                f"the part to repaint needs {region.size[1] // step} x {region.size[0] // step} codes, and at most {MAX_CODES} "
                "are sampled at once: repaint one box or side after the other, or make the image smaller"
            )
        window, hidden = crop_region(image, mask, region, self.tokenizer.channels, beyond)
        known = self.tokenizer.encode(window.to(self.device))
        margin = min(margin, max(known.shape))
        conditioning = Conditioning(grid_of(known), known, mask_to_codes(hidden, step, margin))
        return [
            paste_region(image, mask, decoded, region, feather, opaque=True)
            for sampled in self.sample_batches(request, conditioning)
            for decoded in self.decode(sampled.codes)
        ]

    def _check_side(self, image: Image.Image) -> None:
        step = self.tokenizer.downsample
        if min(image.size) < step:
            raise UserError(
                f"an image of {image.width} x {image.height} pixels is smaller than one code ({step} x {step}): "
                "give a larger one"
            )


def grid_of(codes: Tensor) -> tuple[int, int]:
    """(h, w) of codes `(B, h, w)`."""
    return codes.shape[1], codes.shape[2]
