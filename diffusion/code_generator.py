"""CodeGenerator: codes from a prior, in batches that fit, and images of codes. All of ImageGenerator is built on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from diffusion.keywords import check_sampling_keywords
from diffusion.labels import Classes, ClassLabels
from diffusion.noise import time_of_noised_fraction
from diffusion.preview import nearest_known_codes
from diffusion.prior import Prior
from diffusion.progress import CallProgress
from diffusion.request import (
    FROM_LIMIT,
    MAX_CODES,
    CodesToImages,
    Conditioning,
    Request,
    RequestOption,
    SampledCodes,
    make_request,
)
from diffusion.sampler import get_sampler, planned_calls
from diffusion.sampling import SamplerState, inpainting_projection
from diffusion.settings import SamplingSettings
from diffusion.subcodes import merge_codes, merge_masked_codes, split_masked_codes
from images.convert import OutputType, to_pil

BATCH_SIZE = 64  # samples in one batch, by default


class CodeGenerator:
    """Samples codes with a prior, and decodes them with a tokenizer.

    Args:
        tokenizer: codes to images and back, in eval mode.
        prior: in eval mode.
        defaults: the generation defaults; by default the prior's own.

    Attributes:
        classes: what labels mean for this model.
        class_names: empty without classes.
        guided: whether the model has classes and was trained with label dropout.
        device, dtype: see `ImageGenerator.to`.
    """

    def __init__(self, tokenizer: CodesToImages, prior: Prior, defaults: SamplingSettings | None = None) -> None:
        if prior.codebook_size != tokenizer.codebook_size:
            raise UserError(
                f"the prior has {prior.codebook_size} codes and the tokenizer {tokenizer.codebook_size}: "
                "train the prior again"
            )
        side = tokenizer.image_size // tokenizer.downsample
        if prior.grid != (side, side):
            raise UserError(
                f"the prior has a grid of {prior.grid[0]} x {prior.grid[1]} codes, and the tokenizer makes {side} x {side} "
                f"(image_size {tokenizer.image_size}, downsample {tokenizer.downsample}): train the prior again with "
                f"data.image_size={tokenizer.image_size}"
            )
        self.tokenizer, self.prior = tokenizer, prior
        self.defaults = prior.generation if defaults is None else defaults
        self.class_names, self.guided = prior.class_names, prior.guided
        self.classes = Classes(prior.class_names, prior.guided)
        self.device = next(prior.parameters()).device
        self.dtype = torch.float32

    def settings(self, base: SamplingSettings | None = None, /, **options: object) -> SamplingSettings:
        """`base`, by default the generation defaults, updated by `options` and checked for this model. Raises UserError."""
        return self.prior.checked_settings((base or self.defaults).updated(options))

    def request(
        self,
        n: int,
        labels: Sequence[int],
        output_type: OutputType,
        options: Mapping[str, RequestOption],
        make_settings: Callable[..., SamplingSettings] | None = None,
    ) -> Request:
        """What was asked for, checked. Raises UserError.

        Args:
            labels: class numbers of `self.classes`, taken in turn.
            options: the keywords that `ImageGenerator`'s docstring lists.
            make_settings: by default `self.settings`.
        """
        classes = len(self.class_names)
        return make_request(n, labels, classes, output_type, options, make_settings or self.settings)

    def check_keywords(self, method: Callable[..., object], options: Mapping[str, RequestOption]) -> None:
        """Raise UserError for a keyword among `options` that `method` of this generator does not have."""
        base = options.get("settings")
        check_sampling_keywords(method, options, type(base if isinstance(base, SamplingSettings) else self.defaults))

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
        options: dict[str, RequestOption] = {"seed": seed, "first": first, "settings": settings}
        return self._sample(self.request(n, self.classes.numbers(class_labels), "pil", options), 0, n, conditioning)

    def sample_batches(
        self, request: Request, conditioning: Conditioning = FROM_LIMIT, batch_size: int = BATCH_SIZE
    ) -> Iterator[SampledCodes]:
        """Codes in batches that fit: of at most MAX_CODES positions, and halved where a GPU's memory is too small."""
        height, width = conditioning.grid or self.prior.grid
        if height * width > MAX_CODES:
            raise UserError(
                f"{height} x {width} codes are more than the {MAX_CODES} that are sampled at once: make the image smaller"
            )
        size = max(1, min(batch_size, MAX_CODES // (height * width)))
        progress = CallProgress(request.progress, planned_calls(request.settings))
        begin = 0
        while begin < request.n:
            progress.begin_batch(-(-(request.n - begin) // size))
            count = min(size, request.n - begin)
            own = (request.generators or [])[begin : begin + count]
            before = [generator.get_state() for generator in own]
            try:
                sampled = self._sample(request, begin, count, conditioning, progress.count_call)
            except torch.cuda.OutOfMemoryError as error:
                if count == 1:
                    raise UserError("the GPU's memory does not hold one sample: make the image smaller") from error
                torch.cuda.empty_cache()
                for generator, state in zip(own, before, strict=True):
                    generator.set_state(state)
                size = -(-count // 2)
                continue
            begin += count
            progress.end_batch()
            yield sampled

    def _sample(
        self,
        request: Request,
        begin: int,
        count: int,
        conditioning: Conditioning,
        on_call: Callable[[], object] | None = None,
    ) -> SampledCodes:
        """Samples `begin` to `begin + count - 1` of a request, in one batch."""
        prior, settings = self.prior, request.settings
        generators, labels = request.batch(begin, count)
        # Without a class both sides of guidance are the same, so that one is enough.
        guided = settings.guidance_scale != 1 and bool((labels != prior.no_class).any())
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
            prior.predictor(labels.to(self.device), guided, settings.large_grids),
            prior.graph,
            prior.noise,
            grid if prior.groups == 1 else (*grid, prior.groups),
            generators,
            settings,
            self.device,
            projection,
            time_free=settings.skip_unchanged and prior.time_free,
            origin=origin,
            on_call=on_call,
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

    def class_name(self, label: int) -> str:
        """The name of class `label`, "none" for no class, "" for a model without classes."""
        return self.classes.name(label)

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
