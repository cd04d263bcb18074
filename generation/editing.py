"""The commands inpaint, outpaint, vary and morph: variants of an image, written as they come."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from common.errors import print_note, printable
from diffusion.call_bar import CallBar
from diffusion.code_generator import BATCH_SIZE
from diffusion.pipeline import ImageGenerator
from diffusion.progress import ProgressCallback
from diffusion.request import RequestOption
from diffusion.settings import SamplingSettings, given_settings
from generation.labels import label_names, labels_text, print_label_notes
from generation.output import check_outputs, image_metadata, most_shown, print_settings, save_each, write_strip
from images.io import read_image, save_gif
from images.mask import image_mask, mask_notes

BATCH_PIXELS = 200_000_000  # of the images that are sampled together, which are held in memory


@dataclass(frozen=True)
class Part:
    """Images `first` to `first + count - 1` of a run, sampled together; `progress` is told the network calls."""

    first: int
    count: int
    progress: ProgressCallback


MakeImages = Callable[[Part], list[Image.Image]]


class EditingRun:
    """One run of an editing command: labels, settings and progress of its requests.

    Says on stderr which settings and labels were decided.
    """

    def __init__(self, args: Namespace, generator: ImageGenerator, settings: SamplingSettings) -> None:
        self.args, self.generator, self.settings = args, generator, settings
        self.labels = generator.classes.editing_numbers(args.label)
        self.metadata = image_metadata(args, settings, labels_text(generator, self.labels))
        print_label_notes(args, generator, self.labels, settings)
        print_settings(settings)

    def images(self, size: tuple[int, int], make: MakeImages) -> Iterator[Image.Image]:
        """`--n` images of `size` (width, height), sampled in batches and written as they come."""
        return save_each(self.args, self.metadata, self._labelled(size, make))

    def morph_images(self, image: Image.Image, other: Image.Image) -> Iterator[Image.Image]:
        """The images of a morph, which all have the label of one sample."""
        args = self.args
        with CallBar(args.command) as bar:
            options: dict[str, RequestOption] = {
                "seed": args.seed, "settings": self.settings, "progress": bar.next_request()
            }  # fmt: skip
            frames = self.generator.morph_frames(image, other, args.n, args.strength, args.label, options)
            label = label_names(self.generator, self.labels, args.seed, 0, 1)[0]
            yield from save_each(args, self.metadata, ((frame, label) for frame in frames))

    def _labelled(self, size: tuple[int, int], make: MakeImages) -> Iterator[tuple[Image.Image, str]]:
        n = self.args.n
        batch = max(1, min(BATCH_SIZE, BATCH_PIXELS // (size[0] * size[1])))
        with CallBar(self.args.command, -(-n // batch)) as bar:
            for first in range(0, n, batch):
                count = min(batch, n - first)
                labels = label_names(self.generator, self.labels, self.args.seed, first, count)
                yield from zip(make(Part(first, count, bar.next_request())), labels, strict=True)


def inpainting_settings(args: Namespace, generator: ImageGenerator) -> SamplingSettings:
    """The settings of inpaint and outpaint; says on stderr where another sampler than the model's is the default."""
    given = given_settings(args)
    settings = generator.inpainting_settings(**given)
    if "sampler" not in given and settings.sampler != generator.defaults.sampler:
        print_note(
            f"on the {generator.prior.graph.name} graph {args.command} uses {settings.sampler}, which fits new codes "
            "to the known ones, at the cost of more network calls; --sampler chooses"
        )
    return settings


def load_generator(args: Namespace) -> ImageGenerator:
    """The model of `args`. Raises UserError for given sampling settings before the model is read."""
    given_settings(args)
    return ImageGenerator.from_pretrained(args.model, None, args.dtype)


def inpaint(args: Namespace) -> None:
    """Repaint where the mask is white, inside the boxes, or where the image is transparent."""
    check_outputs(args)
    image = read_image(args.image)
    mask_image = read_image(args.mask) if args.mask else None
    mask = image_mask(image, mask_image, args.box)
    for note in mask_notes(image, mask_image, mask):
        print_note(note)
    shown = most_shown(args, image.size, before=2)
    generator = load_generator(args)
    size = generator.tokenizer.image_size
    if args.fit or min(image.size) < size:
        print_note(
            f"{args.image} is {image.width} x {image.height} and the model works at {size} x {size}: the repainted "
            "part is sampled at that size and scaled; all other pixels are untouched"
        )

    run = EditingRun(args, generator, inpainting_settings(args, generator))

    def make(part: Part) -> list[Image.Image]:
        return generator.inpaint(
            image, mask if args.mask or args.box else None, part.count, args.label, margin=args.margin,
            feather=args.feather, fit=args.fit, seed=args.seed, first=part.first, settings=run.settings,
            progress=part.progress,
        )  # fmt: skip

    write_strip(args, run.metadata, [image, Image.fromarray(mask)], run.images(image.size, make), shown)


def outpaint(args: Namespace) -> None:
    """Extend the image by `--left`, `--top`, `--right` and `--bottom` pixels."""
    check_outputs(args)
    image = read_image(args.image)
    sides = (args.left, args.top, args.right, args.bottom)
    size = (max(1, image.width + args.left + args.right), max(1, image.height + args.top + args.bottom))
    shown = most_shown(args, size)
    generator = load_generator(args)

    run = EditingRun(args, generator, inpainting_settings(args, generator))

    def make(part: Part) -> list[Image.Image]:
        return generator.outpaint(
            image, *sides, part.count, args.label, margin=args.margin, feather=args.feather, seed=args.seed,
            first=part.first, settings=run.settings, progress=part.progress,
        )  # fmt: skip

    write_strip(args, run.metadata, [], run.images(size, make), shown)


def vary(args: Namespace) -> None:
    """Variations of an image: noise a fraction `--strength` of its codes and denoise."""
    check_outputs(args)
    image = read_image(args.image)
    shown = most_shown(args, image.size, before=1)
    generator = load_generator(args)

    run = EditingRun(args, generator, generator.settings(**given_settings(args)))

    def make(part: Part) -> list[Image.Image]:
        return generator.vary(
            image, args.strength, part.count, args.label, seed=args.seed, first=part.first, settings=run.settings,
            progress=part.progress,
        )  # fmt: skip

    write_strip(args, run.metadata, [image], run.images(image.size, make), shown)


def morph(args: Namespace) -> None:
    """From one image to another: a strip, or an animation where `--out` ends in .gif."""
    animated = args.out.suffix.lower() == ".gif"
    check_outputs(args, ".gif" if animated else ".png")
    image, other = read_image(args.image), read_image(args.other)
    shown = most_shown(args, image.size, whole=animated)
    generator = load_generator(args)
    run = EditingRun(args, generator, generator.settings(**given_settings(args)))
    frames = run.morph_images(image, other)
    if animated:
        save_gif(list(frames), args.out, milliseconds=200, last=1000)
        print(printable(args.out))
    else:
        write_strip(args, run.metadata, [], frames, shown)
