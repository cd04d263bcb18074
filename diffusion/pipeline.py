"""ImageGenerator: images from a trained model. Editing methods stand in editing.py and variation.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Never, overload

import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from common.model_dir import model_directory
from diffusion.code_generator import BATCH_SIZE
from diffusion.keywords import check_keywords
from diffusion.labels import ClassLabels
from diffusion.prior import Prior
from diffusion.request import RequestOption, whole_number
from diffusion.variation import ImageVariation
from images.convert import Array, ImageInput, OutputType, to_output

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class ImageOutput(NamedTuple):
    """What calling an ImageGenerator returns, as in diffusers: `images` in the form that `output_type` names."""

    images: list[Image.Image] | Array | Tensor


class ImageGenerator(ImageVariation):
    """Generates, repaints, extends, varies and morphs images. Calling it does the first two with diffusers' keywords.

    Every method takes these keywords as well as its own arguments:
        class_labels: a class number or name, or several, taken in turn; "none" is no class, for models trained with label
            dropout; "random" is a class sampled uniformly for each image. None, the default, is "random" in `generate`, and
            "none" in the methods that edit an image, as far as the model has that. A class of that name wins over the word.
        seed: the same seed gives the same images; sample i depends on (seed, i), not on the batch size.
        generator: a torch.Generator to take the seed from, or a list of CPU generators, one a sample.
        callback_on_step_end: called after every step with (this generator, step from 0, time left in [0, 1],
            {"codes": (n, h, w)}); a code equal to the codebook's size is still masked. A dictionary that it returns
            replaces the codes.
        progress: called with (network calls done, network calls in all) after every call; calls are those of batches.
        output_type: "pil" (list of 8-bit images), "np" `(n, H, W, C)` or "pt" `(n, C, H, W)`, both in [0, 1].
        settings: a whole SamplingSettings; or its fields one by one: num_inference_steps, guidance_scale, sampler,
            temperature, ...; fields that are not given have the model's generation defaults.
    An unknown keyword raises UserError and names the nearest one.

    Args and Attributes: those of `diffusion.code_generator.CodeGenerator`.

    Example:
        >>> from diffusion.pipeline import ImageGenerator
        >>> generator = ImageGenerator.from_pretrained("runs/mnist")
        >>> images = generator.generate(n=4, class_labels=3, num_inference_steps=8, guidance_scale=2.0, seed=0)
        >>> len(images), images[0].size
        (4, (32, 32))
    """

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str = torch.float32,
        **unknown: Never,
    ) -> ImageGenerator:
        """Read a model directory (DIR/tokenizer and DIR/prior), or "hf:owner/name" from the Hugging Face Hub.

        Args:
            device: by default the GPU where there is one.
            dtype: see `to`.

        Raises:
            UserError: it is missing, damaged, or its parts do not fit each other; an unknown keyword.
        """
        check_keywords(cls.from_pretrained, unknown)
        from vq.tokenizer import Tokenizer  # noqa: PLC0415 - the only place of diffusion/ that knows vq/

        directory = model_directory(model)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer, prior = Tokenizer.load(directory / "tokenizer"), Prior.load(directory / "prior")
        try:
            generator = cls(tokenizer, prior)
        except UserError as error:
            raise UserError(f"{directory}: {error}") from error
        return generator.to(device, dtype)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> ImageGenerator:
        """Move to `device`; let the prior compute in `dtype` under autocast. Returns itself.

        Weights and the tokenizer stay in float32: rounding would change which code is nearest.

        Raises:
            UserError: a dtype that is none of float32, bfloat16, float16.
        """
        if device is not None:
            self.device = torch.device(device)
            self.tokenizer, self.prior = self.tokenizer.to(self.device), self.prior.to(self.device)
        if dtype is not None:
            named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
            if named not in DTYPES:
                raise UserError(f"dtype must be float32, bfloat16 or float16, got {dtype}")
            self.dtype = named
        return self

    @overload
    def generate(
        self, n: int = ..., class_labels: ClassLabels = ..., height: int | None = ..., width: int | None = ...,
        batch_size: int = ...,
        *, output_type: Literal["pil"] = ..., **options: RequestOption,
    ) -> list[Image.Image]: ...  # fmt: skip
    @overload
    def generate(
        self, n: int = ..., class_labels: ClassLabels = ..., height: int | None = ..., width: int | None = ...,
        batch_size: int = ...,
        *, output_type: Literal["np"], **options: RequestOption,
    ) -> Array: ...  # fmt: skip
    @overload
    def generate(
        self, n: int = ..., class_labels: ClassLabels = ..., height: int | None = ..., width: int | None = ...,
        batch_size: int = ...,
        *, output_type: Literal["pt"], **options: RequestOption,
    ) -> Tensor: ...  # fmt: skip
    def generate(
        self,
        n: int = 1,
        class_labels: ClassLabels = None,
        height: int | None = None,
        width: int | None = None,
        batch_size: int = BATCH_SIZE,
        *,
        output_type: OutputType = "pil",
        **options: RequestOption,
    ) -> list[Image.Image] | Array | Tensor:
        """Generate `n` images.

        Args:
            class_labels: see the class; None samples them uniformly.
            height, width: in pixels, by default the model's own; `large_grids` says how larger images are sampled.
            batch_size: samples in one batch; halved where memory does not hold them.
            options: see the class.

        Raises:
            UserError: n or a setting out of range, an unknown label or option, guidance without classes, an unknown
                sampler or one that does not fit the model's graph, a size that is too small or too large.

        Example:
            >>> from diffusion.pipeline import ImageGenerator
            >>> generator = ImageGenerator.from_pretrained("runs/mnist")
            >>> generator.generate(n=2, class_labels=["3", "8"], output_type="np").shape
            (2, 32, 32, 1)
        """
        self.check_keywords(self.generate, options)
        labels = self.classes.numbers(class_labels)
        return self._generate(n, labels, height, width, batch_size, output_type, options)

    def _generate(
        self,
        n: int,
        labels: Sequence[int],
        height: int | None,
        width: int | None,
        batch_size: int,
        output_type: OutputType,
        options: Mapping[str, RequestOption],
    ) -> list[Image.Image] | Array | Tensor:
        request = self.request(n, labels, output_type, options)
        size, conditioning = self.image_size(height, width)
        batches = self.sample_batches(request, conditioning, whole_number("batch_size", batch_size, 1))
        return to_output([image for batch in batches for image in self.decode(batch.codes, size)], output_type)

    @overload
    def __call__(
        self, class_labels: ClassLabels = ..., num_images_per_prompt: int = ..., image: ImageInput | None = ...,
        mask_image: ImageInput | None = ..., *, n: int | None = ..., output_type: OutputType = ...,
        return_dict: Literal[True] = ..., **options: RequestOption,
    ) -> ImageOutput: ...  # fmt: skip
    @overload
    def __call__(
        self, class_labels: ClassLabels = ..., num_images_per_prompt: int = ..., image: ImageInput | None = ...,
        mask_image: ImageInput | None = ..., *, n: int | None = ..., output_type: OutputType = ...,
        return_dict: Literal[False], **options: RequestOption,
    ) -> tuple[list[Image.Image] | Array | Tensor]: ...  # fmt: skip
    def __call__(
        self,
        class_labels: ClassLabels = None,
        num_images_per_prompt: int = 1,
        image: ImageInput | None = None,
        mask_image: ImageInput | None = None,
        *,
        n: int | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        **options: RequestOption,
    ) -> ImageOutput | tuple[list[Image.Image] | Array | Tensor]:
        """Generate images, or inpaint `image`, called as DiTPipeline and the inpainting pipelines of diffusers.

        Args:
            class_labels: each label gives `num_images_per_prompt` images, next to each other.
            image, mask_image: with an image, as `inpaint`; without, as `generate`.
            n: the number of images in place of `num_images_per_prompt`; labels are then taken in turn.
            return_dict: False returns the tuple (images,).
            options: see the class.

        Raises:
            UserError: a mask without an image, both numbers of images, and as `generate` and `inpaint`.

        Example:
            >>> from diffusion.pipeline import ImageGenerator
            >>> pipe = ImageGenerator.from_pretrained("runs/mnist")
            >>> output = pipe(class_labels=[3, 8], num_inference_steps=4, generator=torch.manual_seed(0))
            >>> len(output.images)
            2
        """
        self.check_keywords(self.__call__, options)
        if image is None and mask_image is not None:
            raise UserError("mask_image needs an image: give image=, or leave the mask out")
        if n is not None and num_images_per_prompt != 1:
            raise UserError("n and num_images_per_prompt both give the number of images: leave one out")
        labels = self.classes.numbers(class_labels) if image is None else self.classes.editing_numbers(class_labels)
        if n is None:
            each = whole_number("num_images_per_prompt", num_images_per_prompt, 1)
            labels = [label for label in labels for _ in range(each)]
            n = len(labels)
        if image is None:
            images = self._generate(n, labels, None, None, BATCH_SIZE, output_type, options)
        else:
            images = self._inpaint(n, labels, image, mask_image, output_type, options)
        return ImageOutput(images) if return_dict else (images,)
