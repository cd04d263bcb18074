"""Generate images with a trained model; repaint, extend and vary given ones.

python sample.py grid        --model DIR --out grid.png [--n 64] [--label 3] [--size 96x128] [--trajectory out.gif]
python sample.py inpaint     --model DIR --image in.png --mask mask.png | --box 8,8,24,24 --out out.png [--n 4]
python sample.py outpaint    --model DIR --image in.png --right 32 --out out.png
python sample.py vary        --model DIR --image in.png --strength 0.5 --out out.png [--n 4]
python sample.py morph       --model DIR --image a.png --other b.png --out strip.png | out.gif
python sample.py reconstruct --model DIR --image in.png --out out.png
python sample.py app         --model DIR
python sample.py samplers    [--model DIR]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import ArgumentParser, Interrupted, UserError, run_cli
from diffusion.settings import SamplingSettings, add_sampling_arguments


def parse_box(text: str) -> tuple[int, int, int, int]:
    """A box of "left,top,right,bottom"."""
    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not left,top,right,bottom in pixels, such as 8,8,24,24"
        ) from error
    return left, top, right, bottom


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "HxW"."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not HEIGHTxWIDTH in pixels, such as 96x128") from error
    return height, width


LABEL_HELP = (
    "class number or name, or several, taken in turn; 'none': no class; 'random': another one for each image; "
    "default: random for grid; none for images that are edited, as far as the model has that"
)


def build_parser(schema: type[SamplingSettings] = SamplingSettings) -> ArgumentParser:
    """The command line; the sampling flags are the fields of `schema`."""
    model = ArgumentParser(add_help=False)
    model.add_argument("--model", type=Path, required=True, help="a model directory, such as runs/mnist")
    model.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float16: of the prior")

    sampling = ArgumentParser(add_help=False, parents=[model])
    sampling.add_argument("--label", nargs="+", help=LABEL_HELP)
    sampling.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default 0)")
    sampling.add_argument("--images-dir", type=Path, help="also write each image alone into this folder")
    add_sampling_arguments(sampling.add_argument_group("sampling options"), schema)

    editing = ArgumentParser(add_help=False, parents=[sampling])
    editing.add_argument("--image", type=Path, required=True, help="the image")
    editing.add_argument("--out", type=Path, required=True, help="the PNG to write")

    edges = ArgumentParser(add_help=False)
    edges.add_argument("--margin", type=int, default=1, help="codes sampled again around the new part (default 1)")
    edges.add_argument("--feather", type=int, default=0, help="width of the blend in pixels (default 0)")

    variants = ArgumentParser(add_help=False)
    variants.add_argument("--n", type=int, default=1, help="variants; above 1 gives a strip (default 1)")

    parser = ArgumentParser(prog="sample.py", description="Generate images; repaint, extend and vary given ones.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=ArgumentParser)

    command = commands.add_parser("grid", parents=[sampling], help="generate an image grid")
    command.add_argument("--out", type=Path, help="the PNG to write; may be left out with --images-dir")
    # torchrun and accelerate launch take a script's --n for an abbreviation of their own options
    command.add_argument(
        "--n", "--num-images", "--pictures", type=int, default=64, help="number of images (default 64)"
    )
    command.add_argument("--batch-size", type=int, default=64, help="samples in one batch (default 64)")
    command.add_argument("--size", type=parse_size, default=(None, None), metavar="HxW",
                         help="size in pixels, such as 96x128; default: the model's")  # fmt: skip
    command.add_argument("--trajectory", type=Path, metavar="GIF", help="also write the codes after every step")

    command = commands.add_parser("inpaint", parents=[editing, edges, variants], help="repaint a part of an image")
    command.add_argument("--mask", type=Path, help="white is repainted, black is kept; default: the transparent pixels")
    command.add_argument("--box", type=parse_box, action="append", default=[], metavar="X0,Y0,X1,Y1",
                         help="pixels to repaint; may be repeated")  # fmt: skip
    command.add_argument("--fit", action="store_true", help="scale the surroundings of the mask to the model's size")

    command = commands.add_parser("outpaint", parents=[editing, edges, variants], help="extend an image")
    for side in ("left", "top", "right", "bottom"):
        command.add_argument(f"--{side}", type=int, default=0, metavar="PIXELS", help=f"pixels to add at the {side}")

    command = commands.add_parser("vary", parents=[editing, variants], help="variations of an image")
    command.add_argument("--strength", type=float, default=0.5,
                         help="fraction of its codes that noise hits, up to 1 (default 0.5)")  # fmt: skip

    command = commands.add_parser("morph", parents=[editing], help="from one image to another")
    command.add_argument("--other", type=Path, required=True, help="the last image, of the same size")
    command.add_argument("--strength", type=float, default=0.5,
                         help="fraction of the codes that noise hits in the middle (default 0.5)")  # fmt: skip
    command.add_argument("--n", type=int, default=8, help="images, first and last included (default 8)")

    command = commands.add_parser("reconstruct", parents=[model], help="encode an image and decode it again")
    command.add_argument("--image", type=Path, required=True, help="the image")
    command.add_argument("--out", type=Path, required=True, help="the PNG to write")
    command.add_argument("--tile", type=int, default=1024,
                         help="larger images are processed in tiles of this side (default 1024)")  # fmt: skip

    command = commands.add_parser("app", parents=[model], help="serve a page for the browser")
    command.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1: this machine only)")
    command.add_argument("--port", type=int, default=7860, help="port (default 7860)")
    command.add_argument("--allow-host", action="append", default=[], metavar="NAME[:PORT]",
                         help="another name of this server, such as a proxy's; may be repeated")  # fmt: skip

    command = commands.add_parser("samplers", help="list the sampling algorithms and a model's generation defaults")
    command.add_argument("--model", type=Path, help="a model directory: its defaults, and the samplers that fit it")
    return parser


def main(argv: Sequence[str]) -> None:
    """Parse the command line and run one command."""
    args = build_parser().parse_args(argv)
    if getattr(args, "seed", 0) < 0:
        raise UserError(f"--seed must not be negative, got {args.seed}")

    from generation.commands import COMMANDS  # noqa: PLC0415 - after parsing, so that --help needs no torch

    try:
        COMMANDS[args.command](args)
    except KeyboardInterrupt:
        if args.command == "grid" and args.images_dir:
            raise Interrupted("the same command continues with the missing images") from None
        raise


if __name__ == "__main__":
    sys.exit(run_cli(main))
