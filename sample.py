"""Draw pictures with a trained model; repaint, extend and vary given ones.

python sample.py grid        --model DIR --out grid.png [--n 64] [--label 3] [--size 96x128] [--trajectory out.gif]
python sample.py inpaint     --model DIR --image in.png --mask mask.png | --box 8,8,24,24 --out out.png [--n 4]
python sample.py outpaint    --model DIR --image in.png --right 32 --out out.png
python sample.py vary        --model DIR --image in.png --strength 0.5 --out out.png [--n 4]
python sample.py morph       --model DIR --image a.png --other b.png --out strip.png | out.gif
python sample.py reconstruct --model DIR --image in.png --out out.png
python sample.py app         --model DIR
python sample.py samplers
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ArgumentParser, UserError, run_cli

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from diffusion.pipeline import ImageGenerator, Settings

GRID_PICTURES = 1024  # as many are shown in a grid at most
RECONSTRUCTED_PIXELS = 17_000_000  # 4,096 x 4,096 and a little
CELL_PIXELS = 1024  # longest side of a picture in a strip
FRAMES = 64  # of a trajectory at most


def grid(args: argparse.Namespace) -> None:
    """Draw `--n` pictures into one grid, and with `--images-dir` each alone as well.

    The folder is resumable: batches whose pictures are all there are left out. Several processes (`accelerate launch`,
    `torchrun`) share the batches, and each picture is the same whatever their number.
    """
    from tqdm import tqdm

    from diffusion.pipeline import ImageGenerator
    from images.grid import image_grid
    from images.io import check_writable, read_image, save_gif, save_png

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if args.n < 1 or args.batch_size < 1:
        raise UserError(f"--n and --batch-size must be at least 1, got {args.n} and {args.batch_size}")
    if args.out is None and args.images_dir is None:
        raise UserError("nowhere to write to: give --out grid.png, or --images-dir FOLDER, or both")
    if (
        args.out
        and args.images_dir
        and args.out.stem.isdecimal()
        and args.out.parent.resolve() == args.images_dir.resolve()
    ):
        raise UserError(f"--out {args.out} is the name of one of the pictures in --images-dir: choose another")
    if args.images_dir is None and (world > 1 or args.n > GRID_PICTURES):
        raise UserError(
            f"more than {GRID_PICTURES} pictures, or several processes, need a folder: give --images-dir FOLDER"
        )
    for path, suffix in (
        (args.out, ".png"),
        (args.trajectory, ".gif"),
        (args.images_dir and numbered(args, 0), ".png"),
    ):
        if path:
            check_writable(path, suffix)
    settings = settings_from(args)
    device, wait = process_group(world)
    generator = ImageGenerator.from_pretrained(args.model, device, args.dtype)
    size, given = generator.picture_size(*args.size)
    labels = [generator.label_of(label) for label in args.label or []]
    wanted = range(0, args.n, args.batch_size)[rank::world]
    if args.images_dir:
        record_settings(args, write=rank == 0)
    wait()
    about = describe(args)
    shown: list[Image.Image] = []
    frames = Trajectory()
    share = sum(min(args.batch_size, args.n - first) for first in wanted)
    with tqdm(total=share, desc="pictures", unit="picture", disable=rank > 0) as bar:
        for first in wanted:
            count = min(args.batch_size, args.n - first)
            watched = args.trajectory and first == 0
            if args.images_dir and not watched and all(is_whole(numbered(args, first + i)) for i in range(count)):
                bar.update(count)
                continue
            drawn_so_far = first
            for drawn in generator.draw_codes(
                count, labels or None, settings, args.seed, first, given,
                callback=frames.keep if watched else None, batch_size=args.batch_size,
            ):  # fmt: skip
                pictures = generator.decode(drawn.codes, size)
                for picture, label in zip(pictures, drawn.labels.tolist(), strict=True):
                    if args.images_dir:
                        own = {"index": str(drawn_so_far), "label": generator.class_name(label)}
                        save_png(picture, numbered(args, drawn_so_far), about | own)
                    drawn_so_far += 1
                if not args.images_dir:
                    shown += pictures
                bar.update(len(pictures))
    wait()
    if rank > 0:
        return
    columns = len(labels) if len(labels) > 1 else math.ceil(math.sqrt(min(args.n, GRID_PICTURES)))
    if args.trajectory:
        save_gif(frames.pictures(generator, columns), args.trajectory)
        print(args.trajectory)
    if args.out:
        if args.images_dir:
            shown = [read_image(numbered(args, i)) for i in range(min(args.n, GRID_PICTURES))]
            if args.n > len(shown):
                print(f"note: the grid shows the first {len(shown)} of {args.n} pictures", file=sys.stderr)
        save_png(image_grid(shown, min(columns, len(shown))), args.out, about)
        print(args.out)
    if args.images_dir:
        print(args.images_dir)


class Trajectory:
    """The codes of the pictures drawn first, after each step; at most FRAMES of them, evenly spread."""

    def __init__(self) -> None:
        self.codes: list[Tensor] = []
        self.ended = False

    def keep(self, generator: ImageGenerator, step: int, time: float, state: dict[str, Tensor]) -> None:
        """For `callback_on_step_end`. A second batch begins with step 0, and is left out."""
        del generator, time
        self.ended |= step == 0 and bool(self.codes)
        if not self.ended:
            self.codes.append(state["codes"])

    def pictures(self, generator: ImageGenerator, columns: int) -> list[Image.Image]:
        """A grid for each frame, masked codes grey; before them, on the absorbing graph, one that is all masked."""
        import torch

        from diffusion.graph import Absorbing
        from images.grid import image_grid

        chosen = [
            self.codes[i] for i in sorted({round(x) for x in torch.linspace(0, len(self.codes) - 1, FRAMES).tolist()})
        ]
        if isinstance(generator.graph, Absorbing):
            chosen.insert(0, torch.full_like(chosen[0], generator.tokenizer.codebook_size))
        return [image_grid(generator.preview(codes), min(columns, len(codes))) for codes in chosen]


def process_group(world: int) -> tuple[Any, Callable[[], None]]:
    """This process's device (None: the usual one), and a function that waits for all of them."""
    if world == 1:
        return None, lambda: None
    import torch
    from accelerate import PartialState

    # processes that finish early wait for the others, however long that is
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
    return state.device, state.wait_for_everyone


def numbered(args: argparse.Namespace, index: int) -> Path:
    """Where picture `index` goes within `--images-dir`."""
    return args.images_dir / f"{index:06d}.png"


def is_whole(file: Path) -> bool:
    """Whether a picture was written there; files are renamed into place when they are whole."""
    return file.is_file() and file.stat().st_size > 0


def record_settings(args: argparse.Namespace, write: bool) -> None:
    """Note in `--images-dir` what its pictures are drawn with. Raises UserError where others are there already."""
    from common.files import write_text
    from common.model_dir import model_directory
    from diffusion.dataset import codes_key

    directory = model_directory(args.model)
    weights = [codes_key(directory / part / "model.safetensors", "") for part in ("tokenizer", "prior")]
    wanted = describe(args) | {"weights": " ".join(weights)}
    note = args.images_dir / "settings.json"
    begun = any(file.stem.isdecimal() for file in args.images_dir.glob("*.png"))
    try:
        found = json.loads(note.read_text(encoding="utf-8")) if begun and note.exists() else wanted
        differing = [name for name in wanted if name != "model" and found.get(name) != wanted[name]]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{note} is damaged: choose another --images-dir, or remove it with its pictures") from error
    if differing:
        name = differing[0]
        raise UserError(
            f"{args.images_dir} holds pictures of other settings ({name}: {found.get(name)} there, {wanted[name]} asked for): "
            "choose another --images-dir"
        )
    if begun and not note.exists():
        raise UserError(f"{args.images_dir} holds pictures without settings.json: choose another --images-dir")
    if write:
        write_text(note, json.dumps(wanted, indent=2) + "\n")


def inpaint(args: argparse.Namespace) -> None:
    """Repaint where the mask is white, the boxes are, or the picture is transparent."""
    from diffusion.pipeline import ImageGenerator
    from images.io import read_image
    from images.mask import image_mask

    check_outputs(args)
    image = read_image(args.image)
    mask = image_mask(image, read_image(args.mask) if args.mask else None, args.box)
    settings = settings_from(args)
    generator = ImageGenerator.from_pretrained(args.model, None, args.dtype)
    size = generator.tokenizer.image_size
    if args.fit or min(image.size) < size:
        print(
            f"note: {args.image} is {image.width} x {image.height} and the model works at {size} x {size}: the repainted "
            "part is drawn at that size and scaled; all other pixels are untouched",
            file=sys.stderr,
        )
    repaints = generator.inpaint(
        image, mask if args.mask or args.box else None, args.n, args.label, seed=args.seed,
        margin=args.margin, feather=args.feather, fit=args.fit, **vars(settings),
    )  # fmt: skip
    from PIL import Image

    write_pictures(args, [image, Image.fromarray(mask)], repaints)


def outpaint(args: argparse.Namespace) -> None:
    """Extend the picture by `--left`, `--top`, `--right` and `--bottom` pixels."""
    from diffusion.pipeline import ImageGenerator
    from images.io import read_image

    check_outputs(args)
    image = read_image(args.image)
    settings = settings_from(args)
    generator = ImageGenerator.from_pretrained(args.model, None, args.dtype)
    pictures = generator.outpaint(
        image, args.left, args.top, args.right, args.bottom, args.n, args.label, seed=args.seed,
        margin=args.margin, feather=args.feather, **vars(settings),
    )  # fmt: skip
    write_pictures(args, [], pictures)


def vary(args: argparse.Namespace) -> None:
    """Variations of a picture: noise a share `--strength` of its codes and denoise."""
    from diffusion.pipeline import ImageGenerator
    from images.io import read_image

    check_outputs(args)
    image = read_image(args.image)
    settings = settings_from(args)
    generator = ImageGenerator.from_pretrained(args.model, None, args.dtype)
    pictures = generator.vary(image, args.strength, args.n, args.label, seed=args.seed, **vars(settings))
    write_pictures(args, [image], pictures)


def morph(args: argparse.Namespace) -> None:
    """From one picture to another: a strip, or an animation where `--out` ends in .gif."""
    from diffusion.pipeline import ImageGenerator
    from images.io import read_image, save_gif

    animated = args.out.suffix.lower() == ".gif"
    check_outputs(args, ".gif" if animated else ".png")
    image, other = read_image(args.image), read_image(args.other)
    settings = settings_from(args)
    generator = ImageGenerator.from_pretrained(args.model, None, args.dtype)
    pictures = generator.morph(image, other, args.n, args.strength, args.label, seed=args.seed, **vars(settings))
    write_pictures(args, [], pictures, strip=not animated)
    if animated:
        save_gif(pictures, args.out, milliseconds=200, last=1000)
        print(args.out)


def reconstruct(args: argparse.Namespace) -> None:
    """A picture through its codes and back; a large one in tiles. Its alpha channel is kept."""
    import numpy as np

    from common.metrics import psnr
    from images.convert import to_pil, to_tensor
    from images.io import check_writable, read_image, save_png
    from images.region import Region, paste_region
    from vq.tokenizer import Tokenizer

    check_writable(args.out)
    image = read_image(args.image)
    if image.width * image.height > RECONSTRUCTED_PIXELS:
        raise UserError(
            f"{args.image} is {image.width} x {image.height}, more than {RECONSTRUCTED_PIXELS // 10**6} million pixels: "
            "make it smaller"
        )
    tokenizer = Tokenizer.from_pretrained(args.model)
    pixels = to_tensor(image, tokenizer.channels)[None]
    again = tokenizer.reconstruct(pixels, tile=args.tile if max(image.size) > args.tile else 0)
    everything = np.ones((image.height, image.width), dtype=bool)
    region = Region((0, 0, image.width, image.height), (image.height, image.width))
    save_png(paste_region(image, everything, to_pil(again)[0], region), args.out, {"model": args.model.name})
    print(f"PSNR {psnr(again, pixels).item():.2f} dB", file=sys.stderr)
    print(args.out)


def app(args: argparse.Namespace) -> None:
    """Serve the page until it is stopped."""
    from app.bridge import Bridge
    from app.server import serve
    from diffusion.pipeline import ImageGenerator

    serve(Bridge(ImageGenerator.from_pretrained(args.model, None, args.dtype)), host=args.host, port=args.port)


def check_outputs(args: argparse.Namespace, suffix: str = ".png") -> None:
    """Raise UserError, before anything is computed, for a number of pictures or a place to write that cannot be."""
    from images.io import check_writable

    if args.n < 1:
        raise UserError(f"--n must be at least 1, got {args.n}")
    check_writable(args.out, suffix)
    if args.images_dir:
        check_writable(numbered(args, 0))


def write_pictures(
    args: argparse.Namespace, before: Sequence[Image.Image], pictures: Sequence[Image.Image], strip: bool = True
) -> None:
    """One picture as it is; several as a `strip` behind those of `before`; with `--images-dir` each alone as well."""
    from images.grid import image_grid
    from images.io import save_png
    from images.modes import to_model_mode

    metadata = describe(args)
    if args.images_dir:
        for index, picture in enumerate(pictures):
            save_png(picture, numbered(args, index), metadata | {"index": str(index)})
    if not strip:
        return
    if len(pictures) == 1:
        save_png(pictures[0], args.out, metadata)
    else:
        if max(pictures[0].size) > CELL_PIXELS:
            print(
                f"note: the strip shows pictures at up to {CELL_PIXELS} pixels a side; --images-dir writes each as it is",
                file=sys.stderr,
            )
        channels = 1 if pictures[0].mode in ("L", "I;16") else 3
        cells = []
        for picture in (*before, *pictures):
            cell = to_model_mode(picture, channels)
            cell.thumbnail((CELL_PIXELS, CELL_PIXELS))
            cells.append(cell)
        save_png(image_grid(cells, len(cells)), args.out, metadata)
    print(args.out)


def describe(args: argparse.Namespace) -> dict[str, str]:
    """What made a picture, for its PNG's text fields."""
    settings = asdict(settings_from(args))
    own = ("strength", "fit", "margin", "feather", "box", "left", "top", "right", "bottom", "size", "dtype")
    more = {name: vars(args)[name] for name in own if vars(args).get(name) not in (None, [], 0, False)}
    return {name: str(value) for name, value in {
        "model": args.model.name, "command": args.command, "seed": args.seed, "label": args.label, **settings, **more
    }.items()}  # fmt: skip


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
        large_grids=getattr(args, "large_grids", "sliding"),
    )


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


def main(argv: Sequence[str]) -> None:
    """Parse the command line and run one command."""
    model = ArgumentParser(add_help=False)
    model.add_argument("--model", type=Path, required=True, help="a model directory, such as runs/mnist")
    drawing = ArgumentParser(add_help=False, parents=[model])
    drawing.add_argument("--label", nargs="+", help="class number or name, or several, taken in turn; default: random")
    add_sampling_arguments(drawing, guidance=1.0)
    drawing.add_argument("--seed", type=int, default=0, help="the same seed gives the same pictures (default 0)")
    drawing.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float16: of the prior")
    drawing.add_argument("--images-dir", type=Path, help="also write each picture alone into this folder")
    editing = ArgumentParser(add_help=False, parents=[drawing])
    editing.add_argument("--image", type=Path, required=True, help="the picture")
    editing.add_argument("--out", type=Path, required=True, help="the PNG to write")
    edges = ArgumentParser(add_help=False)
    edges.add_argument("--margin", type=int, default=1, help="codes drawn again around the new part (default 1)")
    edges.add_argument(
        "--feather", type=int, default=0, help="pixels of the new part over which it meets the kept colours (default 0)"
    )

    parser = ArgumentParser(prog="sample.py", description="Draw pictures; repaint, extend and vary given ones.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=ArgumentParser)

    command = commands.add_parser("grid", parents=[drawing], help="draw a grid of pictures")
    command.add_argument("--out", type=Path, help="the PNG to write; may be left out with --images-dir")
    # torchrun and accelerate launch take a script's --n for an abbreviation of their own options
    command.add_argument("--n", "--pictures", type=int, default=64, help="number of pictures (default 64)")
    command.add_argument("--batch-size", type=int, default=64, help="pictures drawn at once (default 64)")
    command.add_argument(
        "--size", type=parse_size, default=(None, None), metavar="HxW", help="pixels, e.g. 96x128; default: the model's"
    )
    command.add_argument(
        "--large-grids", default="sliding", help="how sizes beyond the model's are drawn: sliding (default), rotary"
    )
    command.add_argument("--trajectory", type=Path, metavar="GIF", help="also write how the codes appear, step by step")
    command.set_defaults(run=grid)

    command = commands.add_parser("inpaint", parents=[editing, edges], help="repaint a part of a picture")
    command.add_argument("--mask", type=Path, help="white is repainted, black is kept; default: the transparent pixels")
    command.add_argument(
        "--box",
        type=parse_box,
        action="append",
        default=[],
        metavar="X0,Y0,X1,Y1",
        help="pixels to repaint; may be repeated",
    )
    command.add_argument("--fit", action="store_true", help="scale the surroundings of the mask to the model's size")
    command.add_argument("--n", type=int, default=1, help="variants; above 1 gives a strip (default 1)")
    command.set_defaults(run=inpaint)

    command = commands.add_parser("outpaint", parents=[editing, edges], help="extend a picture")
    for side in ("left", "top", "right", "bottom"):
        command.add_argument(f"--{side}", type=int, default=0, metavar="PIXELS", help=f"pixels to add at the {side}")
    command.add_argument("--n", type=int, default=1, help="variants; above 1 gives a strip (default 1)")
    command.set_defaults(run=outpaint)

    command = commands.add_parser("vary", parents=[editing], help="variations of a picture")
    command.add_argument(
        "--strength", type=float, default=0.5, help="share of its codes that noise hits, up to 1 (default 0.5)"
    )
    command.add_argument("--n", type=int, default=1, help="variants; above 1 gives a strip (default 1)")
    command.set_defaults(run=vary)

    command = commands.add_parser("morph", parents=[editing], help="from one picture to another")
    command.add_argument("--other", type=Path, required=True, help="the picture at the end, of the same size")
    command.add_argument(
        "--strength", type=float, default=0.5, help="share of the codes that noise hits in the middle (default 0.5)"
    )
    command.add_argument("--n", type=int, default=8, help="pictures, both ends included (default 8)")
    command.set_defaults(run=morph)

    command = commands.add_parser("reconstruct", parents=[model], help="a picture through its codes and back")
    command.add_argument("--image", type=Path, required=True, help="the picture")
    command.add_argument("--out", type=Path, required=True, help="the PNG to write")
    command.add_argument(
        "--tile", type=int, default=1024, help="larger pictures go through in tiles of this side (default 1024)"
    )
    command.set_defaults(run=reconstruct)

    command = commands.add_parser("app", parents=[model], help="a page in the browser")
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)"
    )
    command.add_argument("--port", type=int, default=7860, help="default 7860")
    command.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float16: of the prior")
    command.set_defaults(run=app)

    commands.add_parser("samplers", help="list the sampling algorithms").set_defaults(run=samplers)
    args = parser.parse_args(argv)
    if getattr(args, "seed", 0) < 0:
        raise UserError(f"--seed must not be negative, got {args.seed}")
    args.run(args)


if __name__ == "__main__":
    sys.exit(run_cli(main))
