"""Inpainting and outpainting: sampling with known codes.

Hidden pixels are never read and kept pixels are never written: the mask is blanked before encoding, every code that a hidden
pixel lies in is sampled, and results are pasted back under the mask alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, overload

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.errors import UserError
from diffusion.request import (
    FROM_LIMIT,
    MAX_CODES,
    ClassLabels,
    CodesToImages,
    Conditioning,
    Request,
    RequestOption,
    SampledCodes,
)
from images.convert import Array, ImageInput, OutputType, as_pil, to_output
from images.mask import Box, Mask, image_mask
from images.region import Region, crop_region, extend_canvas, paste_region, region_around

Images = list[Image.Image] | Array | Tensor


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


class ImageEditing(ABC):
    """The inpainting methods of `diffusion.pipeline.ImageGenerator`, whose docstring lists their common keywords.

    All return images of the input's size (extended, where asked), in its mode if that is L, LA, RGB, RGBA or 16-bit grey,
    otherwise in L, RGB or RGBA.
    """

    tokenizer: CodesToImages
    device: torch.device

    @abstractmethod
    def request(
        self, n: int, class_labels: ClassLabels, output_type: OutputType, options: Mapping[str, RequestOption]
    ) -> Request:
        """What was asked for, checked."""

    @abstractmethod
    def sample_batches(
        self, request: Request, conditioning: Conditioning = FROM_LIMIT, batch_size: int = 64
    ) -> Iterator[SampledCodes]:
        """Codes in batches that fit."""

    @abstractmethod
    def decode(self, codes: Tensor, size: tuple[int, int] | None = None) -> list[Image.Image]:
        """Images of codes."""

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

        Works in a window of the model's size around the mask at the image's own resolution, or in sliding windows where
        the mask is larger, and pastes the hidden pixels back.

        Args:
            image, mask_image: PIL, or arrays `(H, W[, C])` and tensors `(C, H, W)`: uint8, or floats in [0, 1].
            n: number of variants.
            boxes: (left, top, right, bottom) in pixels. Without boxes and mask, transparent pixels are repainted, and
                become opaque.
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
        request = self.request(n, class_labels, output_type, options)
        pixels = as_pil(image)
        mask = image_mask(pixels, None if mask_image is None else as_pil(mask_image), boxes)
        region = region_around(mask, self.tokenizer.image_size, self.tokenizer.downsample, fit)
        opaque = mask_image is None and not boxes
        painted = self._repaint(request, pixels, mask, region, margin, feather, opaque)
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
        request = self.request(n, class_labels, output_type, options)
        canvas, mask = extend_canvas(as_pil(image), left, top, right, bottom)
        region = outpaint_region(mask, left, top, self.tokenizer.image_size, self.tokenizer.downsample)
        painted = self._repaint(request, canvas, mask, region, margin, feather, True, beyond=True)
        return to_output(painted, output_type)

    def _repaint(
        self,
        request: Request,
        image: Image.Image,
        mask: Array,
        region: Region,
        margin: int,
        feather: int,
        opaque: bool,
        beyond: bool = False,
    ) -> list[Image.Image]:
        if margin < 0 or feather < 0:
            raise UserError(f"margin and feather must not be negative, got {margin} and {feather}")
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
            paste_region(image, mask, decoded, region, feather, opaque)
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
