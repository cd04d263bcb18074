"""ImageGenerator: images from a trained model. Editing methods stand in editing.py and variation.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, overload

import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from common.model_dir import model_directory
from diffusion.noise import time_of_noised_fraction
from diffusion.preview import nearest_known_codes
from diffusion.prior import Prior
from diffusion.request import (
    FROM_LIMIT,
    MAX_CODES,
    ClassLabels,
    CodesToImages,
    Conditioning,
    Request,
    RequestOption,
    SampledCodes,
    class_number,
    make_request,
)
from diffusion.sampler import get_sampler
from diffusion.sampling import SamplerState, inpainting_projection
from diffusion.settings import SamplingSettings
from diffusion.subcodes import merge_codes, merge_masked_codes, split_masked_codes
from diffusion.variation import ImageVariation
from images.convert import Array, OutputType, to_output, to_pil

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class ImageGenerator(ImageVariation):
    """Generates, repaints, extends, varies and morphs images.

    Every method takes these keywords as well as its own arguments:
        seed: the same seed gives the same images; sample i depends on (seed, i), not on the batch size.
        generator: a torch.Generator to take the seed from, or a list of CPU generators, one a sample.
        callback_on_step_end: called after every step with (this generator, step from 0, time left in [0, 1],
            {"codes": (n, h, w)}); a code equal to the codebook's size is still masked. A dictionary that it returns
            replaces the codes.
        output_type: "pil" (list of 8-bit images), "np" `(n, H, W, C)` or "pt" `(n, C, H, W)`, both in [0, 1].
        settings: a whole SamplingSettings; or its fields one by one: num_inference_steps, guidance_scale, sampler,
            temperature, ...; fields that are not given have the model's generation defaults.

    Args:
        tokenizer: codes to images and back, in eval mode.
        prior: in eval mode.
        defaults: the generation defaults; by default the prior's own.

    Attributes:
        class_names: empty without classes.
        device, dtype: see `to`.

    Example:
        >>> from diffusion.pipeline import ImageGenerator
        >>> generator = ImageGenerator.from_pretrained("runs/mnist")
        >>> images = generator.generate(n=4, class_labels=3, num_inference_steps=8, guidance_scale=2.0, seed=0)
        >>> len(images), images[0].size
        (4, (32, 32))
    """

    def __init__(self, tokenizer: CodesToImages, prior: Prior, defaults: SamplingSettings | None = None) -> None:
        if prior.codebook_size != tokenizer.codebook_size:
            raise UserError(
                f"the prior has {prior.codebook_size} codes and the tokenizer {tokenizer.codebook_size}: "
                "train the prior again"
            )
        self.tokenizer, self.prior = tokenizer, prior
        self.defaults = prior.generation if defaults is None else defaults
        self.class_names, self.guided = prior.class_names, prior.guided
        self.device = next(prior.parameters()).device
        self.dtype = torch.float32

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str = torch.float32,
    ) -> ImageGenerator:
        """Read a model directory (DIR/tokenizer and DIR/prior), or "hf:owner/name" from the Hugging Face Hub.

        Args:
            device: by default the GPU where there is one.
            dtype: see `to`.

        Raises:
            UserError: it is missing, damaged, or its parts do not fit each other.
        """
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
        batch_size: int = ..., progress: Callable[[int], object] | None = ...,
        *, output_type: Literal["pil"] = ..., **options: RequestOption,
    ) -> list[Image.Image]: ...  # fmt: skip
    @overload
    def generate(
        self, n: int = ..., class_labels: ClassLabels = ..., height: int | None = ..., width: int | None = ...,
        batch_size: int = ..., progress: Callable[[int], object] | None = ...,
        *, output_type: Literal["np"], **options: RequestOption,
    ) -> Array: ...  # fmt: skip
    @overload
    def generate(
        self, n: int = ..., class_labels: ClassLabels = ..., height: int | None = ..., width: int | None = ...,
        batch_size: int = ..., progress: Callable[[int], object] | None = ...,
        *, output_type: Literal["pt"], **options: RequestOption,
    ) -> Tensor: ...  # fmt: skip
    def generate(
        self,
        n: int = 1,
        class_labels: ClassLabels = None,
        height: int | None = None,
        width: int | None = None,
        batch_size: int = 64,
        progress: Callable[[int], object] | None = None,
        *,
        output_type: OutputType = "pil",
        **options: RequestOption,
    ) -> list[Image.Image] | Array | Tensor:
        """Generate `n` images.

        Args:
            class_labels: a class number or name, or several, taken in turn; None samples them uniformly.
            height, width: in pixels, by default the model's own; `large_grids` says how larger images are sampled.
            batch_size: samples in one batch; halved where memory does not hold them.
            progress: called with the number of images just finished.
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
        request = self.request(n, class_labels, output_type, options)
        size, conditioning = self.image_size(height, width)
        images: list[Image.Image] = []
        for sampled in self.sample_batches(request, conditioning, batch_size):
            images += self.decode(sampled.codes, size)
            if progress is not None:
                progress(len(sampled.codes))
        return to_output(images, output_type)

    def settings(self, base: SamplingSettings | None = None, /, **options: object) -> SamplingSettings:
        """`base`, by default the generation defaults, updated by `options` and checked for this model. Raises UserError."""
        return self.prior.checked_settings((base or self.defaults).updated(options))

    def request(
        self, n: int, class_labels: ClassLabels, output_type: OutputType, options: Mapping[str, RequestOption]
    ) -> Request:
        """What was asked for, checked; `options` are the keywords of the class's docstring. Raises UserError."""
        return make_request(n, class_labels, output_type, options, self.class_names, self.settings)

    def sample_codes(
        self,
        n: int,
        class_labels: ClassLabels = None,
        settings: SamplingSettings | None = None,
        seed: int = 0,
        first: int = 0,
        conditioning: Conditioning = FROM_LIMIT,
    ) -> SampledCodes:
        """Codes of samples `first` to `first + n - 1` under `seed`, in one batch. Raises UserError as `generate`."""
        request = self.request(n, class_labels, "pil", {"seed": seed, "first": first, "settings": settings})
        return self._sample(request, 0, n, conditioning)

    def sample_batches(
        self, request: Request, conditioning: Conditioning = FROM_LIMIT, batch_size: int = 64
    ) -> Iterator[SampledCodes]:
        """Codes in batches that fit: of at most MAX_CODES positions, and halved where a GPU's memory is too small."""
        height, width = conditioning.grid or self.prior.grid
        if height * width > MAX_CODES:
            raise UserError(
                f"{height} x {width} codes are more than the {MAX_CODES} that are sampled at once: make the image smaller"
            )
        size = max(1, min(batch_size, MAX_CODES // (height * width)))
        begin = 0
        while begin < request.n:
            count = min(size, request.n - begin)
            own = (request.generators or [])[begin : begin + count]
            before = [generator.get_state() for generator in own]
            try:
                sampled = self._sample(request, begin, count, conditioning)
            except torch.cuda.OutOfMemoryError as error:
                if count == 1:
                    raise UserError("the GPU's memory does not hold one sample: make the image smaller") from error
                torch.cuda.empty_cache()
                for generator, state in zip(own, before, strict=True):
                    generator.set_state(state)
                size = -(-count // 2)
                continue
            begin += count
            yield sampled

    def _sample(self, request: Request, begin: int, count: int, conditioning: Conditioning) -> SampledCodes:
        """Samples `begin` to `begin + count - 1` of a request, in one batch."""
        prior, settings = self.prior, request.settings
        generators, labels = request.batch(begin, count, len(self.class_names))
        grid = conditioning.grid or prior.grid
        projection = origin = None
        if conditioning.known is not None and conditioning.hidden is not None:
            hidden = conditioning.hidden.to(self.device)
            hidden = hidden if prior.groups == 1 else hidden[..., None]
            projection = inpainting_projection(prior.graph, self._split(conditioning.known), hidden)
        if conditioning.origin is not None:
            origin = self._split(conditioning.origin)
            origin = origin.expand(count, *origin.shape[1:])
        state = SamplerState(
            prior.predictor(labels.to(self.device), settings.guidance_scale != 1, settings.large_grids),
            prior.graph,
            prior.noise,
            grid if prior.groups == 1 else (*grid, prior.groups),
            generators,
            settings,
            self.device,
            projection,
            time_free=settings.skip_unchanged and prior.time_free,
            origin=origin,
            begin=1.0 if origin is None else time_of_noised_fraction(prior.noise, conditioning.strength),
        )
        if request.callback is not None:
            state.callback = lambda done, codes: self._run_callback(request, state, done, codes)
        sampler = get_sampler(settings.sampler, settings.sampler_options, prior.graph)
        with torch.no_grad(), self._autocast():
            sampler(state)
        return SampledCodes(merge_codes(state.codes, prior.groups, prior.vocab_size), state.network_calls, labels)

    def _run_callback(self, request: Request, state: SamplerState, done: int, codes: Tensor) -> Tensor | None:
        """Show the user's callback whole codes, and check and split those that it returns."""
        assert request.callback is not None
        shown = merge_masked_codes(codes, self.prior.groups, self.prior.vocab_size).clone()
        answer = request.callback(self, done - 1, float(state.times[min(done, state.steps)]), {"codes": shown})
        if not answer:
            return None
        returned, most = answer.get("codes", shown), self.tokenizer.codebook_size
        if returned.shape != shown.shape or returned.dtype != torch.int64:
            raise UserError(f"callback_on_step_end must return int64 codes {tuple(shown.shape)}")
        if not (returned.min() >= 0 and returned.max() <= most - (done >= state.steps)):
            raise UserError(
                f"callback_on_step_end must return codes in [0, {most}), {most} for masked before the last step"
            )
        return self._split(returned)

    def decode(self, codes: Tensor, size: tuple[int, int] | None = None) -> list[Image.Image]:
        """Images of codes `(n, h, w)`; `size` (H, W) in pixels crops them."""
        images = self.tokenizer.decode(codes)
        return to_pil(images if size is None else images[..., : size[0], : size[1]])

    def preview(self, codes: Tensor) -> list[Image.Image]:
        """Images of codes `(n, h, w)` of which some are still masked (equal to the codebook's size): those tiles are grey."""
        masked = codes == self.tokenizer.codebook_size
        images = self.tokenizer.decode(nearest_known_codes(codes, masked))
        step = self.tokenizer.downsample
        tiles = masked.repeat_interleave(step, 1).repeat_interleave(step, 2)[:, None]
        return to_pil(torch.where(tiles, 0.0, images))

    def label_of(self, wanted: int | str) -> int:
        """The number of a class, given as its number or its name. Raises UserError for an unknown one."""
        return class_number(wanted, self.class_names)

    def class_name(self, label: int) -> str:
        """The name of class `label`, "" for a model without classes."""
        return self.class_names[label] if self.class_names else ""

    def image_size(self, height: int | None, width: int | None) -> tuple[tuple[int, int], Conditioning]:
        """(H, W) in pixels, the model's own where None, and the code grid for it. Raises UserError for less than a code."""
        step, grid = self.tokenizer.downsample, self.prior.grid
        size = (grid[0] * step if height is None else height, grid[1] * step if width is None else width)
        if min(size) < step:
            raise UserError(
                f"an image of {size[0]} x {size[1]} pixels is smaller than one code ({step} x {step}): ask for more"
            )
        return size, Conditioning(grid=(-(-size[0] // step), -(-size[1] // step)))

    def _autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def _split(self, codes: Tensor) -> Tensor:
        return split_masked_codes(codes.to(self.device), self.prior.groups, self.prior.vocab_size)
