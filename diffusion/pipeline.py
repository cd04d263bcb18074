"""ImageGenerator: pictures from a trained model, and what is made of given ones: repainted, extend_canvas, varied."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from common.model_dir import load_weights, model_directory, read_model
from common.seeds import derived_seed
from diffusion.editing import mask_to_codes
from diffusion.graph import Absorbing, build_graph
from diffusion.guidance import Guidance, prior_network
from diffusion.noise import build_noise, time_of_share
from diffusion.sampler import Sampler, get_sampler
from diffusion.stage import build_prior
from diffusion.subcodes import merge_codes, split_codes
from diffusion.transformer import Transformer2D
from diffusion.walk import Walk, known_codes, step_times
from diffusion.windows import SlidingWindows
from images.convert import OUTPUT_TYPES, ImageInput, OutputType, as_pil, to_output, to_pil
from images.mask import Box, image_mask
from images.region import Region, crop_region, extend_canvas, paste_region, region_around, whole_region

ClassLabels = int | str | Sequence[int | str] | None
Generators = torch.Generator | Sequence[torch.Generator] | None
# (generator, step from 0, time left in [0, 1], {"codes": (n, h, w) in [0, K], K is masked}) -> None or {"codes": others}
StepEnd = Callable[["ImageGenerator", int, float, dict[str, Tensor]], dict[str, Tensor] | None]
LARGE_GRIDS = ("sliding", "rotary")
MAX_CODES = 16_384  # positions that are drawn at once: with 1,024 codes some 134 MB an array of float64 probabilities


class CodesToImages(Protocol):
    """What the generator needs of a tokenizer; `vq.tokenizer.Tokenizer` is one."""

    image_size: int
    channels: int
    downsample: int
    codebook_size: int

    def encode(self, images: Tensor) -> Tensor: ...
    def decode(self, codes: Tensor) -> Tensor: ...
    def to(self, device: Any) -> Any: ...


@dataclass(frozen=True)
class Settings:
    """How codes are drawn; the keyword arguments of `ImageGenerator.generate` and its companions.

    Attributes:
        num_inference_steps: steps of the sampler.
        guidance_scale: as in diffusers: 1 is off.
        sampler: a name in `diffusion.sampler.SAMPLERS`; `sampler_options` are its own keyword options.
        step_grid: uniform | cosine | loglinear, see `diffusion.walk.step_times`.
        guidance_ramp, guidance_interval: see `diffusion.guidance.Guidance`.
        temperature, top_p: of every code's distribution; 1 and 1 are the model's own.
        skip: leave out network calls for pictures that did not change, where the network does not look at the time.
        large_grids: how a grid larger than the trained one is drawn. sliding: overlapping windows of the trained size, see
            `diffusion.windows.SlidingWindows`; rotary: the network at once, its positions extrapolated.

    Raises:
        UserError: an unknown `large_grids`.
    """

    num_inference_steps: int = 16
    guidance_scale: float = 1.0
    sampler: str = "tweedie"
    sampler_options: dict[str, Any] = field(default_factory=dict)
    step_grid: str = "uniform"
    guidance_ramp: str = "constant"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    temperature: float = 1.0
    top_p: float = 1.0
    skip: bool = True
    large_grids: str = "sliding"

    def __post_init__(self) -> None:
        if self.large_grids not in LARGE_GRIDS:
            raise UserError(f"large grids are drawn by one of {', '.join(LARGE_GRIDS)}, got '{self.large_grids}'")


class Options(TypedDict, total=False):
    """Further keyword arguments of `generate`, `inpaint`, `outpaint`, `vary` and `morph`: those of `Settings`, and how
    the pictures come back.

    generator: a torch.Generator to draw the seed from, or a list of them, one a picture, to draw the pictures from.
    callback_on_step_end: called after every step with (this generator, step from 0, time left, {"codes": (n, h, w)}); a
        code equal to the codebook's size is still masked. A dictionary that it returns replaces the codes.
    output_type: "pil" (8-bit pictures), "np" `(n, H, W, C)` or "pt" `(n, C, H, W)`, both in [0, 1].
    """

    generator: Generators
    callback_on_step_end: StepEnd | None
    output_type: OutputType
    sampler: str
    sampler_options: dict[str, Any]
    step_grid: str
    guidance_ramp: str
    guidance_interval: tuple[float, float]
    temperature: float
    top_p: float
    skip: bool
    large_grids: str


class Drawn(NamedTuple):
    """Codes `(n, h, w)`, how often the network was called for each of the n pictures `(n,)`, and their labels `(n,)`."""

    codes: Tensor
    network_calls: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Given:
    """What a draw starts from, beside chance: codes of `grid`, by default the model's own.

    Attributes:
        grid: (h, w).
        known: codes `(1 or n, h, w)`; where not `hidden` (bool, the same shape) they stay.
        origin: codes `(1 or n, h, w)` to noise up to `strength`, the share of codes that noise hits, and denoise from there.
    """

    grid: tuple[int, int] | None = None
    known: Tensor | None = None
    hidden: Tensor | None = None
    origin: Tensor | None = None
    strength: float = 1.0


FROM_NOTHING = Given()


class ImageGenerator:
    """Draws, repaints, extends and varies pictures.

    Args:
        tokenizer: codes to pictures and back, in eval mode.
        prior: the network, in eval mode.
        config: what DIR/prior/config.json holds.

    Attributes:
        class_names: empty without classes.
        grid: (h, w) of the codes it was trained on.
        device, dtype: see `to`.

    Example:
        >>> generator = ImageGenerator.from_pretrained("runs/mnist")
        >>> pictures = generator.generate(n=4, class_labels=3, num_inference_steps=8, guidance_scale=2.0, seed=0)
        >>> len(pictures), pictures[0].size
        (4, (32, 32))
    """

    def __init__(self, tokenizer: CodesToImages, prior: Transformer2D, config: dict[str, Any]) -> None:
        self.tokenizer, self.prior, self.config = tokenizer, prior, config
        self.groups, self.vocab_size = prior.groups, prior.vocab_size
        self.graph = build_graph(config["graph"], prior.vocab_size)
        self.noise = build_noise(config["noise"])
        self.grid: tuple[int, int] = (config["grid"][0], config["grid"][1])
        self.class_names: list[str] = list(config["class_names"])
        self.guided = bool(self.class_names) and float(config["label_dropout"]) > 0  # whether guidance can be had
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
        from vq.tokenizer import Tokenizer  # the one place where the packages meet

        directory = model_directory(model)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = Tokenizer.load(directory / "tokenizer")
        config, state = read_model(directory / "prior")
        try:
            generator = cls(tokenizer, build_prior(config).eval(), config)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, ZeroDivisionError) as error:
            raise UserError(
                f"{directory / 'prior/config.json'} is not a prior's ({error!r}): train it again"
            ) from error
        load_weights(generator.prior, state, directory / "prior")
        if config["codebook_size"] != tokenizer.codebook_size:
            raise UserError(
                f"{directory}: the prior knows {config['codebook_size']} codes and the tokenizer "
                f"{tokenizer.codebook_size}: train the prior again"
            )
        return generator.to(device, dtype)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> ImageGenerator:
        """Move to `device`; let the prior compute in `dtype` under autocast. Returns itself.

        Weights and the tokenizer stay in float32: rounding would change which code is nearest.

        Raises:
            UserError: a dtype that is none of float32, bfloat16, float16.
        """
        if device is not None:
            self.device = torch.device(device)
            self.tokenizer, self.prior = self.tokenizer.to(device), self.prior.to(device)
        if dtype is not None:
            named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
            if named not in (torch.float32, torch.bfloat16, torch.float16):
                raise UserError(f"dtype must be float32, bfloat16 or float16, got {dtype}")
            self.dtype = named
        return self

    def generate(
        self,
        n: int = 1,
        class_labels: ClassLabels = None,
        num_inference_steps: int = 16,
        guidance_scale: float = 1.0,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        batch_size: int = 64,
        progress: Callable[[int], object] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Draw `n` pictures; several labels (numbers or class names) are taken in turn, None draws them uniformly.

        Picture i depends on `seed` and i, not on `batch_size`.

        Args:
            guidance_scale: as in diffusers: 1 is off.
            height, width: in pixels, by default the model's own; how larger ones are drawn says `large_grids`.
            batch_size: pictures drawn at once; halved where memory does not hold them.
            progress: called with the number of pictures just drawn.
            options: see `Options`.

        Returns: a list of PIL images, or as `output_type` says.

        Raises:
            UserError: n or steps below 1, an unknown label, guidance without classes, unknown sampler or one that does
                not fit the model's graph, a size that is too small or too large.

        Example:
            >>> generator = ImageGenerator.from_pretrained("runs/mnist")
            >>> generator.generate(n=2, class_labels=["3", "8"], output_type="np").shape
            (2, 32, 32, 1)
        """
        draw = self._request(n, class_labels, num_inference_steps, guidance_scale, seed, options)
        size, given = self.picture_size(height, width)
        pictures: list[Image.Image] = []
        for drawn in draw(given, batch_size):
            pictures += self.decode(drawn.codes, size)
            if progress is not None:
                progress(len(drawn.codes))
        return to_output(pictures, options.get("output_type", "pil"))

    def inpaint(
        self,
        image: ImageInput,
        mask_image: ImageInput | None = None,
        n: int = 1,
        class_labels: ClassLabels = None,
        num_inference_steps: int = 16,
        guidance_scale: float = 1.0,
        seed: int = 0,
        boxes: Sequence[Box] = (),
        margin: int = 1,
        feather: int = 0,
        fit: bool = False,
        **options: Unpack[Options],
    ) -> Any:
        """Repaint where `mask_image` is white (128 and above) or in `boxes`; all other pixels come back identical.

        Works in a window of the model's size around the mask at the picture's own resolution, or in sliding windows where
        the mask is larger, and sets the hidden pixels back. They are replaced by the mean of the kept ones before encoding, so
        nothing of them reaches the codes.

        Args:
            image, mask_image: PIL, or arrays `(H, W[, C])` and tensors `(C, H, W)`: uint8, or floats in [0, 1].
            boxes: (left, top, right, bottom) in pixels. Without boxes and mask, transparent pixels are repainted, and
                become opaque.
            margin: codes around the mask that are drawn again, for a better fit; their pixels outside the mask are kept.
            feather: pixels inside the mask over which its colours are drawn to those of the nearest kept pixel.
            fit: scale a square around the mask, as large as the picture allows, to the model's size, instead of working at
                the picture's resolution. Always done for pictures narrower than the model.
            others: as `generate`.

        Returns: `n` pictures of the input's size; modes L, LA, RGB, RGBA and 16-bit grey are kept, others become L, RGB, RGBA.

        Raises:
            UserError: a mask of another size or without white, a box outside, and as `generate`.

        Example:
            >>> generator = ImageGenerator.from_pretrained("runs/mnist")
            >>> digit = generator.generate(class_labels=3)[0]
            >>> [repaint.size for repaint in generator.inpaint(digit, boxes=[(0, 16, 32, 32)], n=2)]
            [(32, 32), (32, 32)]
        """
        draw = self._request(n, class_labels, num_inference_steps, guidance_scale, seed, options)
        picture = as_pil(image)
        mask = image_mask(picture, None if mask_image is None else as_pil(mask_image), boxes)
        region = region_around(mask, self.tokenizer.image_size, self.tokenizer.downsample, fit)
        opaque = mask_image is None and not boxes
        return self._repaint(draw, picture, mask, region, margin, feather, opaque, options)

    def outpaint(
        self,
        image: ImageInput,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        n: int = 1,
        class_labels: ClassLabels = None,
        num_inference_steps: int = 16,
        guidance_scale: float = 1.0,
        seed: int = 0,
        margin: int = 1,
        feather: int = 0,
        **options: Unpack[Options],
    ) -> Any:
        """Extend a picture by pixels on each side, in sliding windows at its own resolution; its own pixels stay identical.

        Returns: `n` pictures, as `inpaint`. Raises UserError where nothing is to be added, and as `inpaint`.

        Example:
            >>> generator = ImageGenerator.from_pretrained("runs/mnist")
            >>> digit = generator.generate(class_labels=3)[0]
            >>> generator.outpaint(digit, left=8, right=24)[0].size
            (64, 32)
        """
        draw = self._request(n, class_labels, num_inference_steps, guidance_scale, seed, options)
        canvas, mask = extend_canvas(as_pil(image), left, top, right, bottom)
        step, size = self.tokenizer.downsample, self.tokenizer.image_size
        # Begin a whole number of codes before the old picture, so that its first pixel is a code's first.
        begin = (-(-left % step), -(-top % step))
        sides = [
            max(size, -(-(length - first) // step) * step) for length, first in zip(canvas.size, begin, strict=True)
        ]
        region = Region((*begin, begin[0] + sides[0], begin[1] + sides[1]), (sides[1], sides[0]))
        if sides[0] * sides[1] > MAX_CODES * step**2:  # of a large picture, the part around what is new
            region = region_around(mask, size, step)
        return self._repaint(draw, canvas, mask, region, margin, feather, True, options, beyond=True)

    def vary(
        self,
        image: ImageInput,
        strength: float = 0.5,
        n: int = 1,
        class_labels: ClassLabels = None,
        num_inference_steps: int = 16,
        guidance_scale: float = 1.0,
        seed: int = 0,
        **options: Unpack[Options],
    ) -> Any:
        """Variations: noise the picture's codes up to a share `strength` in (0, 1] of them, and denoise from there.

        As image-to-image in diffusers (SDEdit, arXiv 2108.01073); as there, `num_inference_steps` is that of a whole walk,
        of which a share `strength` is walked. At 1 nothing of the picture is left. Sampler informed_corrector draws codes again
        wherever they are, so that more change than `strength` says.

        Returns: `n` pictures of the input's size, its alpha channel kept. Raises UserError for another strength, for a picture
        smaller than a code or too large to be drawn at once, and as `generate`.

        Example:
            >>> generator = ImageGenerator.from_pretrained("runs/mnist")
            >>> digit = generator.generate(class_labels=3)[0]
            >>> [variant.size for variant in generator.vary(digit, strength=0.4, n=2)]
            [(32, 32), (32, 32)]
        """
        if not 0 < strength <= 1:
            raise UserError(f"strength must lie in (0, 1], got {strength}: near 0 changes little, 1 keeps nothing")
        steps = max(1, round(num_inference_steps * strength)) if num_inference_steps >= 1 else num_inference_steps
        draw = self._request(n, class_labels, steps, guidance_scale, seed, options)
        picture = as_pil(image)
        region, codes = self._encode_whole(picture)
        everywhere = np.ones((picture.height, picture.width), dtype=bool)
        given = Given((codes.shape[1], codes.shape[2]), origin=None if strength == 1 else codes, strength=strength)
        pictures = [
            paste_region(picture, everywhere, painted, region)
            for drawn in draw(given)
            for painted in self.decode(drawn.codes)
        ]
        return to_output(pictures, options.get("output_type", "pil"))

    def morph(
        self,
        image: ImageInput,
        other: ImageInput,
        n: int = 8,
        strength: float = 0.5,
        class_labels: ClassLabels = None,
        num_inference_steps: int = 16,
        guidance_scale: float = 1.0,
        seed: int = 0,
        **options: Unpack[Options],
    ) -> Any:
        """`n` pictures from one picture to another of the same size, through partially noised codes.

        In picture i a share i / (n - 1) of the codes, always the same ones first, is the other picture's; noise hits a share
        of up to `strength`, most in the middle and none at the ends, and is taken away with the same random numbers in
        every picture. Raises UserError for pictures of two sizes, fewer than two pictures, and as `vary`.

        Example:
            >>> generator = ImageGenerator.from_pretrained("runs/mnist")
            >>> first, last = generator.generate(n=2, class_labels=[3, 8])
            >>> len(generator.morph(first, last, n=5))
            5
        """
        if not 0 < strength <= 1:
            raise UserError(f"strength must lie in (0, 1], got {strength}")
        if n < 2:
            raise UserError(f"a morph has at least two pictures, got {n}")
        first, last = as_pil(image), as_pil(other)
        if first.size != last.size:
            raise UserError(
                f"one picture is {first.width} x {first.height} and the other {last.width} x {last.height}: "
                "make them the same size"
            )
        (region, start), (_, end) = self._encode_whole(first), self._encode_whole(last)
        generator = options.get("generator")
        if isinstance(generator, torch.Generator):
            seed = seed_from(generator)
        elif generator is not None:
            raise UserError("a morph takes one generator: its pictures are drawn with the same random numbers")
        options = cast(Options, {key: value for key, value in options.items() if key != "generator"})
        self._request(n, class_labels, num_inference_steps, guidance_scale, seed, options)  # for what it refuses
        order = torch.rand(start.shape, generator=picture_generator(seed, 0)).to(self.device)
        frames = [start]
        for i in range(1, n - 1):
            share = i / (n - 1)
            hit = strength * 4 * share * (1 - share)
            steps = max(1, round(num_inference_steps * hit))
            draw = self._request(1, class_labels, steps, guidance_scale, seed, options)
            mixed = torch.where(order < share, end, start)
            frames += [
                drawn.codes for drawn in draw(Given((start.shape[1], start.shape[2]), origin=mixed, strength=hit))
            ]
        everywhere = np.ones((first.height, first.width), dtype=bool)
        canvas = Image.new("RGB" if self.tokenizer.channels == 3 else "L", first.size)
        painted = [self.decode(codes)[0] for codes in [*frames, end]]
        pictures = [paste_region(canvas, everywhere, one, region) for one in painted]
        return to_output(pictures, options.get("output_type", "pil"))

    def generate_codes(
        self,
        n: int,
        class_labels: ClassLabels = None,
        settings: Settings | None = None,
        seed: int = 0,
        first: int = 0,
        given: Given = FROM_NOTHING,
        generators: Sequence[torch.Generator] | None = None,
        callback: StepEnd | None = None,
    ) -> Drawn:
        """Codes of pictures `first` to `first + n - 1`, drawn in one batch. Raises as `generate`.

        Args:
            generators: one a picture; by default those of `seed`.
        """
        settings = settings or Settings()
        sampler, guidance = self._sampling(settings)
        if generators is None:
            generators = [picture_generator(seed, first + i) for i in range(n)]
        labels = self._labels(class_labels, generators, first).to(self.device)
        grid = given.grid or self.grid
        project = None
        if given.known is not None and given.hidden is not None:
            hidden = given.hidden.to(self.device)
            project = known_codes(
                self.graph, self._split(given.known), hidden if self.groups == 1 else hidden[..., None]
            )
        origin = None
        if given.origin is not None:
            origin = self._split(given.origin)
            origin = origin.expand(n, *origin.shape[1:])

        def on_step(done: int, codes: Tensor) -> Tensor | None:
            assert callback is not None
            shown = self._merge(codes).clone()
            answer = callback(self, done - 1, float(walk.times[min(done, walk.steps)]), {"codes": shown})
            if not answer:
                return None
            given_back, most = answer.get("codes", shown), self.tokenizer.codebook_size
            if given_back.shape != shown.shape or given_back.dtype != torch.int64:
                raise UserError(f"callback_on_step_end must return int64 codes {tuple(shown.shape)}")
            if not (given_back.min() >= 0 and given_back.max() <= most - (done >= walk.steps)):
                raise UserError(
                    f"callback_on_step_end must return codes in [0, {most}), {most} for masked before the last step"
                )
            return self._split(given_back)

        walk = Walk(
            self._network(labels, guidance.scale != 1, grid, settings.large_grids),
            self.graph,
            self.noise,
            grid if self.groups == 1 else (*grid, self.groups),
            generators,
            settings.num_inference_steps,
            settings.step_grid,
            guidance,
            settings.temperature,
            settings.top_p,
            self.device,
            project,
            None if callback is None else on_step,
            time_free=settings.skip and not self.config["time_conditioned"],
            origin=origin,
            begin=1.0 if origin is None else time_of_share(self.noise, given.strength),
        )
        with torch.no_grad(), self._autocast():
            sampler(walk, **settings.sampler_options)
        return Drawn(merge_codes(walk.codes, self.groups, self.vocab_size), walk.calls, labels.cpu())

    def draw_codes(
        self,
        n: int,
        class_labels: ClassLabels = None,
        settings: Settings | None = None,
        seed: int = 0,
        first: int = 0,
        given: Given = FROM_NOTHING,
        generators: Sequence[torch.Generator] | None = None,
        callback: StepEnd | None = None,
        batch_size: int = 64,
    ) -> Iterator[Drawn]:
        """`generate_codes` in batches that fit: of at most MAX_CODES positions, and halved where a GPU's memory is too small."""
        height, width = given.grid or self.grid
        if height * width > MAX_CODES:
            raise UserError(
                f"{height} x {width} codes are more than the {MAX_CODES} that are drawn at once: make the picture smaller"
            )
        size = max(1, min(batch_size, MAX_CODES // (height * width)))
        for begin in range(0, n, size):
            count = min(size, n - begin)
            own = None if generators is None else generators[begin : begin + count]
            before = [] if own is None else [generator.get_state() for generator in own]
            try:
                drawn = self.generate_codes(count, class_labels, settings, seed, first + begin, given, own, callback)
            except torch.cuda.OutOfMemoryError as error:
                if count == 1:
                    raise UserError("the GPU's memory does not hold one picture: make it smaller") from error
                torch.cuda.empty_cache()
                for generator, state in zip(own or [], before, strict=True):
                    generator.set_state(state)
                yield from self.draw_codes(
                    count, class_labels, settings, seed, first + begin, given, own, callback, -(-count // 2)
                )
                continue
            yield drawn

    def decode(self, codes: Tensor, size: tuple[int, int] | None = None) -> list[Image.Image]:
        """Pictures of codes `(n, h, w)`; `size` (H, W) in pixels cuts off what is beyond."""
        images = self.tokenizer.decode(codes)
        return to_pil(images if size is None else images[..., : size[0], : size[1]])

    def preview(self, codes: Tensor) -> list[Image.Image]:
        """Pictures of codes `(n, h, w)` of which some are still masked (equal to the codebook's size): those tiles are grey."""
        masked = codes == self.tokenizer.codebook_size
        step = self.tokenizer.downsample
        grey = torch.zeros(
            (1, self.tokenizer.channels, codes.shape[1] * step, codes.shape[2] * step), device=self.device
        )
        # the decoder wants some code there: those of an empty picture disturb the neighbours least
        images = self.tokenizer.decode(torch.where(masked, self.tokenizer.encode(grey), codes))
        tiles = masked.repeat_interleave(step, 1).repeat_interleave(step, 2)[:, None]
        return to_pil(torch.where(tiles, 0.0, images))

    def label_of(self, wanted: int | str) -> int:
        """The number of a class, given as its number or its name. Raises UserError for an unknown one."""
        count = len(self.class_names)
        if isinstance(wanted, str):
            if wanted in self.class_names:
                return self.class_names.index(wanted)
            if not wanted.removeprefix("-").isdecimal():
                known = f"has the classes {', '.join(self.class_names[:20])}" if count else "has no classes"
                raise UserError(f"unknown class '{wanted}': this model {known}")
            wanted = int(wanted)
        wanted = operator.index(wanted)
        if not 0 <= wanted < count:
            known = f"0 to {count - 1} ({', '.join(self.class_names[:10])})" if count else "none: it has no classes"
            raise UserError(f"label {wanted} is out of range: this model knows {known}")
        return int(wanted)

    def class_name(self, label: int) -> str:
        """The name of class `label`, "" for a model without classes."""
        return self.class_names[label] if self.class_names else ""

    def _labels(self, wanted: ClassLabels, generators: Sequence[torch.Generator], first: int) -> Tensor:
        count = len(self.class_names)
        if wanted is None:
            if not count:
                return torch.zeros(len(generators), dtype=torch.int64)
            return torch.cat([torch.randint(count, (1,), generator=generator) for generator in generators])
        listed = [wanted] if isinstance(wanted, str) or not hasattr(wanted, "__iter__") else list(wanted)
        if not listed:
            raise UserError("class_labels is an empty list: give labels, or None for random ones")
        given = [self.label_of(one) for one in listed]
        return torch.tensor([given[(first + i) % len(given)] for i in range(len(generators))])

    def _request(
        self, n: int, class_labels: ClassLabels, steps: int, guidance: float, seed: int, options: Options
    ) -> Callable[..., Iterator[Drawn]]:
        """Check what was asked for, and return what draws it in batches: `(given, batch_size) -> Drawn, Drawn, ...`."""
        if n < 1 or seed < 0:
            raise UserError(f"the number of pictures must be at least 1 and the seed not negative, got {n} and {seed}")
        if class_labels is not None:
            self._labels(class_labels, [torch.Generator()], 0)
        if options.get("output_type", "pil") not in OUTPUT_TYPES:
            raise UserError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got '{options['output_type']}'")
        apart = ("generator", "callback_on_step_end", "output_type")
        step_times(steps, "uniform")  # for what it refuses
        settings = Settings(steps, guidance, **{key: value for key, value in options.items() if key not in apart})  # type: ignore[arg-type]
        self._sampling(settings)
        generator, callback = options.get("generator"), options.get("callback_on_step_end")
        generators = None
        if isinstance(generator, torch.Generator):
            seed = seed_from(generator)
        elif generator is not None:
            generators = list(generator)
            if len(generators) != n:
                raise UserError(f"{n} pictures need {n} generators or one, got {len(generators)}")

        def draw(given: Given, batch_size: int = 64) -> Iterator[Drawn]:
            return self.draw_codes(n, class_labels, settings, seed, 0, given, generators, callback, batch_size)

        return draw

    def _repaint(
        self,
        draw: Callable[..., Iterator[Drawn]],
        picture: Image.Image,
        mask: np.ndarray,
        region: Region,
        margin: int,
        feather: int,
        opaque: bool,
        options: Options,
        beyond: bool = False,
    ) -> Any:
        if margin < 0 or feather < 0:
            raise UserError(f"margin and feather must not be negative, got {margin} and {feather}")
        step = self.tokenizer.downsample
        self._check_side(picture)
        if region.size[0] * region.size[1] // step**2 > MAX_CODES:
            raise UserError(
                f"the part to repaint needs {region.size[1] // step} x {region.size[0] // step} codes, and at most {MAX_CODES} "
                "are drawn at once: one box, or one side, after the other, or a smaller copy of the picture"
            )
        window, hidden = crop_region(picture, mask, region, self.tokenizer.channels, beyond)
        known = self.tokenizer.encode(window.to(self.device))
        margin = min(margin, max(known.shape))
        given = Given((known.shape[1], known.shape[2]), known, mask_to_codes(hidden, step, margin))
        pictures = [
            paste_region(picture, mask, painted, region, feather, opaque)
            for drawn in draw(given)
            for painted in self.decode(drawn.codes)
        ]
        return to_output(pictures, options.get("output_type", "pil"))

    def _encode_whole(self, picture: Image.Image) -> tuple[Region, Tensor]:
        self._check_side(picture)
        region = whole_region(*picture.size, self.tokenizer.image_size, self.tokenizer.downsample)
        height, width = (side // self.tokenizer.downsample for side in region.size)
        if height * width > MAX_CODES:
            raise UserError(
                f"a picture of {picture.width} x {picture.height} needs {width} x {height} codes, and at most {MAX_CODES} "
                "are drawn at once: make it smaller or less narrow"
            )
        window, _ = crop_region(picture, None, region, self.tokenizer.channels)
        return region, self.tokenizer.encode(window.to(self.device))

    def _check_side(self, picture: Image.Image) -> None:
        step = self.tokenizer.downsample
        if min(picture.size) < step:
            raise UserError(
                f"a picture of {picture.width} x {picture.height} pixels is smaller than one code ({step} x {step}): "
                "give a larger one"
            )

    def picture_size(self, height: int | None, width: int | None) -> tuple[tuple[int, int], Given]:
        """(H, W) in pixels, the model's own where None, and the grid for it. Raises UserError for less than a code."""
        step = self.tokenizer.downsample
        size = (self.grid[0] * step if height is None else height, self.grid[1] * step if width is None else width)
        if min(size) < step:
            raise UserError(
                f"a picture of {size[0]} x {size[1]} pixels is smaller than one code ({step} x {step}): ask for more"
            )
        return size, Given(grid=(-(-size[0] // step), -(-size[1] // step)))

    def _sampling(self, settings: Settings) -> tuple[Sampler, Guidance]:
        """The sampler and the guidance that `settings` name. Raises UserError where this model does not have them."""
        guidance = Guidance(settings.guidance_scale, settings.guidance_ramp, settings.guidance_interval)
        if guidance.scale != 1 and not self.guided:
            raise UserError("this model has no classes or was trained without label dropout: leave guidance at 1")
        return get_sampler(settings.sampler, self.graph), guidance

    def _network(self, labels: Tensor, guided: bool, grid: tuple[int, int], large_grids: str) -> Any:
        raw_score = self.config["parametrization"] == "score"
        model: Any = self.prior
        if large_grids == "sliding" and (grid[0] > self.grid[0] or grid[1] > self.grid[1]):
            mask_state = self.graph.mask_state if isinstance(self.graph, Absorbing) else None
            model = SlidingWindows(self.prior, self.grid, mask_state, normalise=not raw_score)
        return prior_network(model, self.graph, labels, len(self.class_names), guided, raw_score)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _split(self, codes: Tensor) -> Tensor:
        """Codes `(n, h, w)` as the prior's, `(n, h, w[, G])`; one equal to the codebook's size is masked in all parts."""
        codes = codes.to(self.device)
        if self.groups == 1:
            return codes
        size = self.vocab_size**self.groups
        digits = split_codes(codes.clamp(max=size - 1), self.groups, self.vocab_size)
        return torch.where((codes == size)[..., None], self.vocab_size, digits)

    def _merge(self, codes: Tensor) -> Tensor:
        """The inverse of `_split`; a code that is masked in some part is masked."""
        if self.groups == 1:
            return codes
        masked = (codes == self.vocab_size).any(-1)
        merged = merge_codes(codes.clamp(max=self.vocab_size - 1), self.groups, self.vocab_size)
        return torch.where(masked, self.vocab_size**self.groups, merged)


def seed_from(generator: torch.Generator) -> int:
    """A seed drawn from `generator`, so that the next call with it gives other pictures."""
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def picture_generator(seed: int, index: int) -> torch.Generator:
    """The random stream of picture `index` under `seed`: the same on every device and in every batch."""
    return torch.Generator().manual_seed(derived_seed(seed, index))
