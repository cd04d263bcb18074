"""Draw grids of pictures and repaint regions with a trained model.

python sample.py grid    --model DIR --out grid.png [--n 64] [--label 3]
python sample.py inpaint --model DIR --image in.png --mask mask.png --out out.png [--n 4]
python sample.py samplers
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ArgumentParser, UserError, run_cli

if TYPE_CHECKING:
    from diffusion.pipeline import Settings


def grid(args: argparse.Namespace) -> None:
    """Draw `--n` pictures into one grid, and with `--images-dir` each alone as well."""
    from tqdm import tqdm

    from common.imageio import check_writable, make_grid, save_png
    from diffusion.pipeline import ImageGenerator

    if args.n < 1:
        raise UserError(f"--n must be at least 1, got {args.n}")
    check_writable(args.out)
    if args.images_dir:
        check_writable(args.images_dir / "000000.png")
    settings = settings_from(args)
    generator = ImageGenerator.from_pretrained(args.model)
    with tqdm(total=args.n, desc="pictures", unit="picture") as bar:
        pictures = generator.generate(
            args.n, args.label, seed=args.seed, batch_size=args.batch_size, progress=bar.update, **vars(settings)
        )
    metadata = describe(args)
    if args.images_dir:
        for index, picture in enumerate(pictures):
            save_png(picture, args.images_dir / f"{index:06d}.png", metadata | {"index": str(index)})
    columns = len(args.label) if args.label and len(args.label) > 1 else math.ceil(math.sqrt(args.n))
    save_png(make_grid(pictures, min(columns, args.n)), args.out, metadata)
    print(args.out)


def inpaint(args: argparse.Namespace) -> None:
    """Repaint the white part of the mask: one picture, or with `--n` above 1 a strip: original, mask, repaints."""
    from common.imageio import check_writable, make_grid, read_image, save_png, to_model_mode
    from diffusion.pipeline import ImageGenerator

    if args.n < 1:
        raise UserError(f"--n must be at least 1, got {args.n}")
    check_writable(args.out)
    if args.images_dir:
        check_writable(args.images_dir / "000000.png")
    image, mask = read_image(args.image), read_image(args.mask)
    settings = settings_from(args)
    generator = ImageGenerator.from_pretrained(args.model)
    repaints = generator.inpaint(image, mask, args.n, args.label, seed=args.seed, **vars(settings))
    size = generator.tokenizer.image_size
    if image.size != (size, size):
        print(
            f"note: {args.image} is {image.width} x {image.height} and the model works at {size} x {size}: "
            "the repainted part is drawn at that size and scaled; all other pixels are untouched",
            file=sys.stderr,
        )
    metadata = describe(args)
    if args.images_dir:
        for index, picture in enumerate(repaints):
            save_png(picture, args.images_dir / f"{index:06d}.png", metadata | {"index": str(index)})
    if args.n == 1:
        save_png(repaints[0], args.out, metadata)
    else:
        channels = 1 if image.mode == "L" else 3
        cells = [to_model_mode(picture, channels) for picture in (image, to_model_mode(mask, 1), *repaints)]
        save_png(make_grid(cells, len(cells)), args.out, metadata)
    print(args.out)


def describe(args: argparse.Namespace) -> dict[str, str]:
    """What made a picture, for its PNG's text fields."""
    settings = asdict(settings_from(args))
    return {"model": args.model.name, "seed": str(args.seed), "label": str(args.label)} | {
        name: str(value) for name, value in settings.items()
    }


def samplers(args: argparse.Namespace) -> None:
    """List the samplers: what each does, its paper, its options."""
    from diffusion.sampler import NEEDS_MASK, SAMPLERS, sampler_options

    for name, sampler in SAMPLERS.items():
        about = (sampler.__doc__ or "").splitlines()[0]
        options = "".join(f"  --option {key}={value}" for key, value in sampler_options(name).items())
        graphs = "absorbing graph" if name in NEEDS_MASK else "both graphs"
        print(f"{name:20} {about} [{graphs}]{options}")


def add_sampling_arguments(parser: argparse.ArgumentParser, guidance: float) -> None:
    """The flags that `settings_from` reads; `guidance` is the default of --guidance."""
    add = parser.add_argument
    add("--steps", type=int, default=16, help="sampling steps (default 16)")
    add("--sampler", default="tweedie", help="sampling algorithm, see 'sample.py samplers' (default tweedie)")
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the sampler; may be repeated")
    add("--step-grid", default="uniform", help="spacing of the steps: uniform (default), cosine, loglinear")
    add("--guidance", type=float, default=guidance, help=f"guidance scale; 1 is off (default {guidance:g})")
    add("--guidance-ramp", default="constant", help="constant (default), linear or power_cosine from 1 up to the scale")
    add(
        "--guidance-interval",
        type=float,
        nargs=2,
        default=[0, 1],
        metavar=("FROM", "TO"),
        help="share of the steps guided",
    )
    add("--temperature", type=float, default=1.0, help="of every code's distribution (default 1)")
    add("--top-p", type=float, default=1.0, help="draw from the codes that hold this share of probability (default 1)")


def settings_from(args: argparse.Namespace) -> Settings:
    """The sampling settings of a command line. Raises UserError for options that the sampler does not have."""
    from diffusion.pipeline import Settings
    from diffusion.sampler import SAMPLERS, parse_options

    for option in args.option:
        if "=" not in option:
            raise UserError(f"--option '{option}' is not of the form name=value")
    if args.sampler not in SAMPLERS:
        raise UserError(f"unknown sampler '{args.sampler}': known are {', '.join(SAMPLERS)}")
    options = parse_options(args.sampler, dict(option.split("=", 1) for option in args.option))
    return Settings(
        args.steps,
        args.guidance,
        args.sampler,
        options,
        args.step_grid,
        args.guidance_ramp,
        (args.guidance_interval[0], args.guidance_interval[1]),
        args.temperature,
        args.top_p,
    )


def main(argv: Sequence[str]) -> None:
    """Parse the command line and run one command."""
    common = ArgumentParser(add_help=False)
    common.add_argument("--model", type=Path, required=True, help="a model directory, such as runs/mnist")
    common.add_argument("--out", type=Path, required=True, help="the PNG to write")
    common.add_argument("--label", type=int, nargs="+", help="class number, or several, taken in turn; default: random")
    add_sampling_arguments(common, guidance=1.0)
    common.add_argument("--seed", type=int, default=0, help="the same seed gives the same pictures (default 0)")
    common.add_argument("--images-dir", type=Path, help="also write each picture alone into this folder")

    parser = ArgumentParser(prog="sample.py", description="Draw grids of pictures and repaint regions.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=ArgumentParser)
    command = commands.add_parser("grid", parents=[common], help="draw a grid of pictures")
    command.add_argument("--n", type=int, default=64, help="number of pictures (default 64)")
    command.add_argument("--batch-size", type=int, default=64, help="pictures drawn at once (default 64)")
    command.set_defaults(run=grid)
    command = commands.add_parser("inpaint", parents=[common], help="repaint the white part of a mask")
    command.add_argument("--image", type=Path, required=True, help="the picture")
    command.add_argument("--mask", type=Path, required=True, help="its mask: white is repainted, black is kept")
    command.add_argument("--n", type=int, default=1, help="repaints; above 1 gives a strip (default 1)")
    command.set_defaults(run=inpaint)
    commands.add_parser("samplers", help="list the sampling algorithms").set_defaults(run=samplers, seed=0)
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise UserError(f"--seed must not be negative, got {args.seed}")
    if args.command == "grid" and args.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {args.batch_size}")
    args.run(args)


if __name__ == "__main__":
    sys.exit(run_cli(main))
