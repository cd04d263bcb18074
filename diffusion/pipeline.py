"""ImageGenerator: codes from the prior, pictures from the tokenizer, repainting of masked regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.checkpoint import load_weights, model_directory, read_model
from common.errors import UserError
from common.imageio import to_model_mode, to_pil, to_tensor
from common.seeds import derived_seed
from diffusion.codes import merge_codes, split_codes
from diffusion.graph import build_graph
from diffusion.guidance import Guidance, prior_network
from diffusion.noise import build_noise
from diffusion.sampler import get_sampler
from diffusion.stage import build_prior
from diffusion.transformer import Transformer2D
from diffusion.walk import Projection, StepCallback, Walk, known_codes


class CodesToImages(Protocol):
    """What the generator needs of a tokenizer; `vq.tokenizer.Tokenizer` is one."""

    image_size: int
    channels: int
    downsample: int
    codebook_size: int

    def encode(self, images: Tensor) -> Tensor: ...
    def decode(self, codes: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn; the keyword arguments of `ImageGenerator.generate` and its companions.

    Attributes:
        num_inference_steps: steps of the sampler.
        guidance_scale: as in diffusers: 1 is off.
        sampler: a name in `diffusion.sampler.SAMPLERS`; `sampler_options` are its own keyword options.
        step_grid: uniform | cosine | loglinear, see `diffusion.walk.step_times`.
        guidance_ramp, guidance_interval: see `diffusion.guidance.Guidance`.
        temperature, top_p: of every code's distribution; 1 and 1 are the model's own.
        skip: leave out network calls for pictures that did not change, where the network does not look at the time.
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


class Drawn(NamedTuple):
    """Codes `(n, h, w)`, and how often the network was called for each of the n pictures `(n,)`."""

    codes: Tensor
    network_calls: Tensor


def picture_generator(seed: int, index: int) -> torch.Generator:
    """The random stream of picture `index` under `seed`: the same on every device and in every batch."""
    return torch.Generator().manual_seed(derived_seed(seed, index))


def mask_to_codes(mask: Tensor, downsample: int, margin: int = 1) -> Tensor:
    """Codes that a pixel mask hides: bool `(B, H, W)` -> bool `(B, H / f, W / f)`.

    A code is hidden where any pixel of its f x f footprint is, and so are the `margin` codes around, because the
    decoder looks at neighbours.
    """
    hidden = F.max_pool2d(mask[:, None].float(), downsample)
    return F.max_pool2d(hidden, 2 * margin + 1, stride=1, padding=margin)[:, 0] > 0


class ImageGenerator:
    """Draws and repaints pictures.

    Args:
        tokenizer: codes to pictures and back, in eval mode.
        prior: the network, in eval mode.
        config: what DIR/prior/config.json holds.

    Example:
        gen = ImageGenerator.from_pretrained("runs/mnist")
        pictures = gen.generate(n=16, class_labels=3, num_inference_steps=16, guidance_scale=2.0, seed=0)
    """

    def __init__(self, tokenizer: CodesToImages, prior: Transformer2D, config: dict[str, Any]) -> None:
        self.tokenizer, self.prior, self.config = tokenizer, prior, config
        self.groups, self.vocab_size = prior.groups, prior.vocab_size
        self.graph = build_graph(config["graph"], prior.vocab_size)
        self.noise = build_noise(config["noise"])
        self.grid: tuple[int, int] = (config["grid"][0], config["grid"][1])
        self.class_names: list[str] = config["class_names"]
        self.device = next(prior.parameters()).device

    @classmethod
    def from_pretrained(cls, model: str | Path, device: str | torch.device | None = None) -> ImageGenerator:
        """Read a model directory (DIR/tokenizer and DIR/prior), or "hf:owner/name" from the Hugging Face Hub.

        Raises UserError where it is missing or does not fit.
        """
        from vq.tokenizer import Tokenizer  # the one place where the packages meet

        directory = model_directory(model)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = Tokenizer.load(directory / "tokenizer").to(device)
        config, state = read_model(directory / "prior")
        try:
            prior = build_prior(config)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{directory / 'prior/config.json'} is not a prior's ({error}): train it again") from error
        load_weights(prior, state, directory / "prior")
        if config["codebook_size"] != tokenizer.codebook_size:
            raise UserError(
                f"{directory}: the prior knows {config['codebook_size']} codes and the tokenizer "
                f"{tokenizer.codebook_size}: train the prior again"
            )
        return cls(tokenizer, prior.to(device).eval(), config)

    def generate(
        self,
        n: int = 1,
        class_labels: int | Sequence[int] | None = None,
        num_inference_steps: int = 16,
        guidance_scale: float = 1.0,
        seed: int = 0,
        batch_size: int = 64,
        progress: Callable[[int], object] | None = None,
        **settings: Any,
    ) -> list[Image.Image]:
        """Draw `n` pictures; several labels are taken in turn, None draws them uniformly.

        Picture i depends on `seed` and i, not on `batch_size`. `guidance_scale` follows diffusers: 1 is off. Further
        `settings` are those of `Settings`.

        Raises:
            UserError: n or steps below 1, label out of range, guidance without classes, unknown sampler or one that
                does not fit the model's graph.
        """
        if n < 1:
            raise UserError(f"the number of pictures must be at least 1, got {n}")
        wanted = Settings(num_inference_steps, guidance_scale, **settings)
        pictures: list[Image.Image] = []
        for first in range(0, n, batch_size):
            count = min(batch_size, n - first)
            drawn = self.generate_codes(count, class_labels, wanted, seed, first=first)
            pictures += to_pil(self.tokenizer.decode(drawn.codes))
            if progress is not None:
                progress(count)
        return pictures

    def generate_codes(
        self,
        n: int,
        class_labels: int | Sequence[int] | None = None,
        settings: Settings | None = None,
        seed: int = 0,
        first: int = 0,
        project: Projection | None = None,
        on_step: StepCallback | None = None,
    ) -> Drawn:
        """Codes of pictures `first` to `first + n - 1`, drawn in one batch. Raises as `generate`."""
        settings = settings or Settings()
        draw = get_sampler(settings.sampler, self.graph)
        guidance = Guidance(settings.guidance_scale, settings.guidance_ramp, settings.guidance_interval)
        no_class = len(self.class_names)
        if guidance.scale != 1 and not (self.class_names and self.config["label_dropout"] > 0):
            raise UserError("this model has no classes or was trained without label dropout: leave guidance at 1")
        generators = [picture_generator(seed, first + i) for i in range(n)]
        labels = self._labels(class_labels, generators, first).to(self.device)
        raw_score = self.config["parametrization"] == "score"
        walk = Walk(
            prior_network(self.prior, self.graph, labels, no_class, guidance.scale != 1, raw_score),
            self.graph,
            self.noise,
            self.grid if self.groups == 1 else (*self.grid, self.groups),
            generators,
            settings.num_inference_steps,
            settings.step_grid,
            guidance,
            settings.temperature,
            settings.top_p,
            self.device,
            project,
            on_step,
            time_free=settings.skip and not self.config["time_conditioned"],
        )
        with torch.no_grad():
            draw(walk, **settings.sampler_options)
        return Drawn(merge_codes(walk.codes, self.groups, self.vocab_size), walk.calls)

    def _labels(self, wanted: int | Sequence[int] | None, generators: Sequence[torch.Generator], first: int) -> Tensor:
        count = len(self.class_names)
        if wanted is None:
            if not count:
                return torch.zeros(len(generators), dtype=torch.int64)
            return torch.cat([torch.randint(count, (1,), generator=generator) for generator in generators])
        given = [wanted] if isinstance(wanted, int) else list(wanted)
        for label in given:
            if not 0 <= label < count:
                known = f"0 to {count - 1} ({', '.join(self.class_names[:10])})" if count else "none: it has no classes"
                raise UserError(f"label {label} is out of range: this model knows {known}")
        return torch.tensor([given[(first + i) % len(given)] for i in range(len(generators))])

    def inpaint(
        self,
        image: Image.Image,
        mask_image: Image.Image,
        n: int = 1,
        class_labels: int | Sequence[int] | None = None,
        num_inference_steps: int = 16,
        guidance_scale: float = 1.0,
        seed: int = 0,
        **settings: Any,
    ) -> list[Image.Image]:
        """Repaint where `mask_image` is white (128 and above); all other pixels come back identical.

        A square window around the mask, as large as the picture's shorter side (or the whole picture, its edges
        extended, where the mask does not fit in), is worked on at the model's size and set back at the picture's own.
        The hole is filled with the mean of the kept pixels before encoding, so nothing of it reaches the codes.

        Returns: `n` pictures of the input's size; modes L, LA, RGB and RGBA are kept, others become RGB or L.

        Raises:
            UserError: a mask of another size or without white, and as `generate`.
        """
        if n < 1:
            raise UserError(f"the number of pictures must be at least 1, got {n}")
        if mask_image.size != image.size:
            raise UserError(
                f"the mask is {mask_image.width} x {mask_image.height} and the picture {image.width} x {image.height}: "
                "make the mask the picture's size"
            )
        mask = np.asarray(to_model_mode(mask_image, 1)) >= 128
        if not mask.any():
            raise UserError("the mask has no white pixel: paint white what is to be repainted")
        box = repaint_window(mask)
        size, channels = self.tokenizer.image_size, self.tokenizer.channels
        window = to_tensor(crop_extended(to_model_mode(image, channels), box), channels)[None]
        hidden = torch.from_numpy(
            np.array(crop_extended(Image.fromarray(mask.astype(np.uint8) * 255), box, fill=0)) > 0
        )[None]
        window = blank_hidden(window, hidden)
        if window.shape[-1] != size:
            window = F.interpolate(window, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
            # any hidden pixel under a model's pixel hides it
            hidden = F.adaptive_max_pool2d(hidden[:, None].float(), size)[:, 0] > 0
        hidden_codes = mask_to_codes(hidden, self.tokenizer.downsample).to(self.device)
        known = split_codes(self.tokenizer.encode(window.to(self.device)), self.groups, self.vocab_size)
        if self.groups > 1:
            hidden_codes = hidden_codes[..., None]
        project = known_codes(self.graph, known, hidden_codes)
        wanted = Settings(num_inference_steps, guidance_scale, **settings)
        codes = self.generate_codes(n, class_labels, wanted, seed, project=project).codes
        return [set_back(image, mask, painted, box) for painted in to_pil(self.tokenizer.decode(codes))]


Box = tuple[int, int, int, int]


def repaint_window(mask: np.ndarray) -> Box:
    """The square (left, top, right, bottom) to work on; it may reach past the picture where nothing smaller holds the mask.

    Args:
        mask: bool `(H, W)`, True where repainted, somewhere True.
    """
    height, width = mask.shape
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    side = min(height, width)
    if max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 > side:
        side = max(height, width)

    def place(low: int, high: int, length: int) -> int:
        if side >= length:
            return -((side - length) // 2)
        return int(np.clip((low + high + 1 - side) // 2, 0, length - side))

    left, top = place(columns[0], columns[-1], width), place(rows[0], rows[-1], height)
    return left, top, left + side, top + side


def crop_extended(image: Image.Image, box: Box, fill: int | None = None) -> Image.Image:
    """The part of `image` in `box`; beyond the border its edge pixels go on, or `fill` does."""
    left, top, right, bottom = box
    before_after = [(max(0, -top), max(0, bottom - image.height)), (max(0, -left), max(0, right - image.width))]
    pixels = np.asarray(image.crop((max(0, left), max(0, top), min(right, image.width), min(bottom, image.height))))
    padding = before_after + [(0, 0)] * (pixels.ndim - 2)
    padded = np.pad(pixels, padding, mode="edge") if fill is None else np.pad(pixels, padding, constant_values=fill)
    return Image.fromarray(padded)


def blank_hidden(images: Tensor, hidden: Tensor) -> Tensor:
    """Replace hidden pixels `(B, H, W)` of images `(B, C, H, W)` by the mean of the kept ones, 0 where none is kept."""
    kept = ~hidden[:, None]
    mean = (images * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(kept, images, mean)


def set_back(image: Image.Image, mask: np.ndarray, painted: Image.Image, box: Box) -> Image.Image:
    """`image` with the pixels under `mask` taken from `painted`, which stands for the window `box` of it."""
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = to_model_mode(image, 1 if image.mode[0] in "1IF" else 3)
    side = box[2] - box[0]
    if painted.width != side:
        painted = painted.resize((side, side), Image.Resampling.BICUBIC)
    canvas = Image.new(painted.mode, image.size)
    canvas.paste(painted, box[:2])
    colours = image.mode.removesuffix("A")
    result = np.array(image)
    drawn = np.asarray(canvas.convert(colours))
    if image.mode == colours:
        result[mask] = drawn[mask]
    else:  # alpha comes last and is kept
        result[mask, :-1] = drawn.reshape(*mask.shape, -1)[mask]
    return Image.fromarray(result)
