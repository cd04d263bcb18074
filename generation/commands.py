"""The commands of sample.py but `grid`, which stands in grid.py: from parsed arguments to files."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from common.errors import UserError
from common.metrics import psnr
from diffusion.pipeline import ImageGenerator
from diffusion.prior import Prior
from diffusion.sampler import NEEDS_MASK, SAMPLERS, sampler_options, samplers_for
from diffusion.settings import SamplingSettings, SettingValue, given_settings, setting_fields
from generation.grid import grid
from generation.output import check_outputs, write_variants
from images.convert import to_pil, to_tensor
from images.io import check_writable, read_image, save_gif, save_png
from images.mask import image_mask
from images.region import Region, paste_region
from vq.tokenizer import Tokenizer

RECONSTRUCTED_PIXELS = 17_000_000  # 4,096 x 4,096 and a little


def load_generator(args: Namespace) -> tuple[ImageGenerator, SamplingSettings]:
    """The model of `args` and the sampling settings. Raises UserError for given settings before the model is read."""
    given = given_settings(args)
    generator = ImageGenerator.from_pretrained(args.model, None, args.dtype)
    return generator, generator.settings(**given)


def inpaint(args: Namespace) -> None:
    """Repaint where the mask is white, inside the boxes, or where the image is transparent."""
    check_outputs(args)
    image = read_image(args.image)
    mask = image_mask(image, read_image(args.mask) if args.mask else None, args.box)
    generator, settings = load_generator(args)
    size = generator.tokenizer.image_size
    if args.fit or min(image.size) < size:
        print(
            f"note: {args.image} is {image.width} x {image.height} and the model works at {size} x {size}: the repainted "
            "part is sampled at that size and scaled; all other pixels are untouched",
            file=sys.stderr,
        )
    variants = generator.inpaint(
        image, mask if args.mask or args.box else None, args.n, args.label, margin=args.margin,
        feather=args.feather, fit=args.fit, seed=args.seed, settings=settings,
    )  # fmt: skip
    write_variants(args, settings, [image, Image.fromarray(mask)], variants)


def outpaint(args: Namespace) -> None:
    """Extend the image by `--left`, `--top`, `--right` and `--bottom` pixels."""
    check_outputs(args)
    image = read_image(args.image)
    generator, settings = load_generator(args)
    variants = generator.outpaint(
        image, args.left, args.top, args.right, args.bottom, args.n, args.label, margin=args.margin,
        feather=args.feather, seed=args.seed, settings=settings,
    )  # fmt: skip
    write_variants(args, settings, [], variants)


def vary(args: Namespace) -> None:
    """Variations of an image: noise a fraction `--strength` of its codes and denoise."""
    check_outputs(args)
    image = read_image(args.image)
    generator, settings = load_generator(args)
    variants = generator.vary(image, args.strength, args.n, args.label, seed=args.seed, settings=settings)
    write_variants(args, settings, [image], variants)


def morph(args: Namespace) -> None:
    """From one image to another: a strip, or an animation where `--out` ends in .gif."""
    animated = args.out.suffix.lower() == ".gif"
    check_outputs(args, ".gif" if animated else ".png")
    image, other = read_image(args.image), read_image(args.other)
    generator, settings = load_generator(args)
    frames = generator.morph(image, other, args.n, args.strength, args.label, seed=args.seed, settings=settings)
    write_variants(args, settings, [], frames, strip=not animated)
    if animated:
        save_gif(frames, args.out, milliseconds=200, last=1000)
        print(args.out)


def reconstruct(args: Namespace) -> None:
    """Encode an image and decode it again; a large one in tiles. Its alpha channel is kept."""
    check_writable(args.out)
    image = read_image(args.image)
    if image.width * image.height > RECONSTRUCTED_PIXELS:
        raise UserError(
            f"{args.image} is {image.width} x {image.height}, more than {RECONSTRUCTED_PIXELS // 10**6} million pixels: "
            "make it smaller"
        )
    tokenizer = Tokenizer.from_pretrained(args.model)
    pixels = to_tensor(image, tokenizer.channels)[None]
    decoded = tokenizer.reconstruct(pixels, tile=args.tile if max(image.size) > args.tile else 0)
    everywhere = np.ones((image.height, image.width), dtype=bool)
    region = Region((0, 0, image.width, image.height), (image.height, image.width))
    save_png(paste_region(image, everywhere, to_pil(decoded)[0], region), args.out, {"model": args.model.name})
    print(f"PSNR {psnr(decoded, pixels).item():.2f} dB", file=sys.stderr)
    print(args.out)


def app(args: Namespace) -> None:
    """Serve the page until it is stopped."""
    from app.server import serve  # noqa: PLC0415 - gradio is an extra

    generator = ImageGenerator.from_pretrained(args.model, None, args.dtype)
    serve(generator, host=args.host, port=args.port, allowed=args.allow_host)


def samplers(args: Namespace) -> None:
    """List the samplers with their papers and options; of a model, its generation defaults and the samplers that fit it."""
    names = list(SAMPLERS)
    if args.model is not None:
        prior = Prior.from_pretrained(args.model)
        names = samplers_for(prior.graph)
        print(f"generation defaults of {args.model}:")
        for field in setting_fields(type(prior.generation)):
            print(f"  {field.flags[0]:20} {option_text(getattr(prior.generation, field.name))}")
    for name in names:
        about = (SAMPLERS[name].__doc__ or "").splitlines()[0]
        options = "".join(f"  --option {key}={value}" for key, value in sampler_options(name).items())
        graphs = "absorbing graph" if name in NEEDS_MASK else "both graphs"
        print(f"{name:20} {about} [{graphs}]{options}")


def option_text(value: SettingValue) -> str:
    """A sampling option as one would write it after its flag."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={part}" for name, part in value.items()) or "none"
    if isinstance(value, tuple):
        return " ".join(f"{part:g}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "grid": grid,
    "inpaint": inpaint,
    "outpaint": outpaint,
    "vary": vary,
    "morph": morph,
    "reconstruct": reconstruct,
    "app": app,
    "samplers": samplers,
}
