"""The table of sample.py's commands, and those that do not sample: from parsed arguments to files."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping

import numpy as np
from tqdm import tqdm

from common.errors import UserError, printable
from common.metrics import psnr
from diffusion.pipeline import ImageGenerator
from diffusion.prior import Prior
from diffusion.sampler import NEEDS_MASK, NOTES, SAMPLERS, sampler_options, samplers_for
from diffusion.settings import SettingValue, setting_fields
from generation.editing import inpaint, morph, outpaint, vary
from generation.grid import grid
from generation.output import check_overwrites
from images.convert import to_pil, to_tensor
from images.io import check_writable, read_image, save_png
from images.modes import flatten_alpha
from images.region import Region, paste_region
from vq.tiling import count_tiles
from vq.tokenizer import Tokenizer

RECONSTRUCTED_PIXELS = 17_000_000  # 4,096 x 4,096 and a little
OVERLAP = 64  # margin of a tile in pixels, on each side
TILED_PIXELS = 300_000_000  # of all tiles with their margins: small tiles of a large image consist of margins


def reconstruct(args: Namespace) -> None:
    """Encode an image and decode it again; a large one in tiles. Its alpha channel is kept."""
    check_overwrites(args)
    check_writable(args.out)
    image = read_image(args.image)
    if image.width * image.height > RECONSTRUCTED_PIXELS:
        raise UserError(
            f"{args.image} is {image.width} x {image.height}, more than {RECONSTRUCTED_PIXELS // 10**6} million pixels: "
            "make it smaller"
        )
    check_tile(args.tile, image.size)
    tokenizer = Tokenizer.from_pretrained(args.model)
    pixels = to_tensor(flatten_alpha(image), tokenizer.channels)[None]
    tile = args.tile if max(image.size) > args.tile else 0
    tiles = count_tiles(image.height, image.width, tokenizer.downsample, tile) if tile else 0
    with tqdm(total=2 * tiles, desc="encode and decode", unit="tile", disable=not tiles) as bar:
        decoded = tokenizer.reconstruct(pixels, tile=tile, overlap=OVERLAP, on_tile=bar.update)
    everywhere = np.ones((image.height, image.width), dtype=bool)
    region = Region((0, 0, image.width, image.height), (image.height, image.width))
    save_png(paste_region(image, everywhere, to_pil(decoded)[0], region), args.out, {"model": args.model.name})
    print(f"PSNR {psnr(decoded, pixels).item():.2f} dB", file=sys.stderr)
    print(printable(args.out))


def check_tile(tile: int, size: tuple[int, int]) -> None:
    """Raise UserError for a `tile` of less than a pixel, or one so small that an image of `size` needs endless many."""
    if tile < 1:
        raise UserError(f"--tile must be at least 1, got {tile}")
    if max(size) > tile:
        tiles = -(-size[0] // tile) * -(-size[1] // tile)
        if tiles * (tile + 2 * OVERLAP) ** 2 > TILED_PIXELS:
            raise UserError(f"--tile {tile} cuts {size[0]} x {size[1]} pixels into {tiles} tiles: give a larger one")


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
        print(f"generation defaults of {printable(args.model)}:")
        for field in setting_fields(type(prior.generation)):
            print(f"  {field.flags[0]:20} {option_text(getattr(prior.generation, field.name))}")
    for name in names:
        about = (SAMPLERS[name].__doc__ or "").splitlines()[0]
        options = "".join(f"  --option {key}={value}" for key, value in sampler_options(name).items())
        graphs = "absorbing graph" if name in NEEDS_MASK else "both graphs"
        note = f"  note: {NOTES[name]}" if name in NOTES else ""
        print(f"{name:20} {about} [{graphs}]{options}{note}")


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
