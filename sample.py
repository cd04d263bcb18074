"""Draw grids of pictures and repaint regions with a trained model.

python sample.py grid    --model DIR --out grid.png [--n 64] [--label 3]
python sample.py inpaint --model DIR --image in.png --mask mask.png --out out.png [--n 4]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import ArgumentParser, UserError, run_cli


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
    generator = ImageGenerator.from_pretrained(args.model)
    with tqdm(total=args.n, desc="pictures", unit="picture") as bar:
        pictures = generator.generate(
            args.n, args.label, args.steps, args.guidance, args.seed, args.sampler, args.batch_size, bar.update
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
    generator = ImageGenerator.from_pretrained(args.model)
    repaints = generator.inpaint(image, mask, args.n, args.label, args.steps, args.guidance, args.seed, args.sampler)
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
    names = ("seed", "sampler", "steps", "guidance", "label")
    return {"model": args.model.name} | {name: str(getattr(args, name)) for name in names}


def main(argv: Sequence[str]) -> None:
    """Parse the command line and run one command."""
    common = ArgumentParser(add_help=False)
    common.add_argument("--model", type=Path, required=True, help="a model directory, such as runs/mnist")
    common.add_argument("--out", type=Path, required=True, help="the PNG to write")
    common.add_argument("--label", type=int, nargs="+", help="class number, or several, taken in turn; default: random")
    common.add_argument("--steps", type=int, default=16, help="sampling steps (default 16)")
    common.add_argument("--sampler", default="tweedie", help="sampling algorithm (default tweedie)")
    common.add_argument("--guidance", type=float, default=1.0, help="guidance scale; 1 is off (default)")
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
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise UserError(f"--seed must not be negative, got {args.seed}")
    if args.command == "grid" and args.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {args.batch_size}")
    args.run(args)


if __name__ == "__main__":
    sys.exit(run_cli(main))
