"""Where the commands of sample.py write, and the metadata of an image."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from common.errors import UserError, print_note, printable
from common.files import check_separate
from common.model_dir import protected_folders
from diffusion.settings import SamplingSettings
from images.grid import image_grid
from images.io import check_writable, save_png
from images.modes import to_model_mode

CELL_PIXELS = 1024  # longest side of an image in a strip
# arguments of single commands that go into the metadata where they are given
OWN = ("strength", "fit", "margin", "feather", "box", "left", "top", "right", "bottom", "size", "dtype")


def check_outputs(args: Namespace, suffix: str = ".png") -> None:
    """Raise UserError, before anything is computed, for a number of images or an output path that is not possible."""
    if args.n < 1:
        raise UserError(f"--n must be at least 1, got {args.n}")
    check_overwrites(args)
    check_writable(args.out, suffix)
    if args.images_dir:
        check_writable(numbered(args.images_dir, 0))


def check_overwrites(args: Namespace) -> None:
    """Raise UserError where a command would overwrite an image that it reads, a part of the model, or its own output."""
    given = vars(args)
    outputs = [(f"--{name}", given[name]) for name in ("out", "trajectory") if given.get(name)]
    inputs = [(f"--{name}", given[name]) for name in ("image", "mask", "other") if given.get(name)]
    if folder := given.get("images_dir"):
        if args.out and args.out.parent.resolve() == folder.resolve() and args.out.stem.isdecimal():
            raise UserError(f"--out {args.out} is the name of one of the images in --images-dir: choose another")
        outputs.append(("--images-dir", numbered(folder, 0)))
        if inputs:  # a file that is read exists, so only existing files can be it
            outputs += [("--images-dir", file) for file in folder.glob("*.png") if is_numbered(file, args.n)]
    check_separate(list(dict.fromkeys(outputs)), [*inputs, *protected_folders(args.model)])


def numbered(folder: Path, index: int) -> Path:
    """The file of image `index` in `--images-dir`."""
    return folder / f"{index:06d}.png"


def is_numbered(file: Path, count: int) -> bool:
    """Whether `file` is that of one of the first `count` images."""
    return file.stem.isdecimal() and int(file.stem) < count and file == numbered(file.parent, int(file.stem))


def image_metadata(args: Namespace, settings: SamplingSettings) -> dict[str, str]:
    """How an image was made, for the text fields of its PNG."""
    given = {name: vars(args)[name] for name in OWN if vars(args).get(name) not in (None, [], 0, False)}
    about = {"model": args.model.name, "command": args.command, "seed": args.seed, "label": args.label}
    return {name: str(value) for name, value in about.items()} | settings.metadata() | {
        name: str(value) for name, value in given.items()
    }  # fmt: skip


def print_settings(settings: SamplingSettings) -> None:
    """Say on stderr which settings were decided."""
    print(f"sampling: {settings.summary()}", file=sys.stderr)


def write_variants(
    args: Namespace,
    settings: SamplingSettings,
    before: Sequence[Image.Image],
    images: Sequence[Image.Image],
    strip: bool = True,
) -> None:
    """Write one image as it is, several as a `strip` after those of `before`; with `--images-dir` each alone as well."""
    print_settings(settings)
    metadata = image_metadata(args, settings)
    if args.images_dir:
        for index, image in enumerate(images):
            save_png(image, numbered(args.images_dir, index), metadata | {"index": str(index)})
    if not strip:
        return
    if len(images) == 1:
        save_png(images[0], args.out, metadata)
    else:
        if max(images[0].size) > CELL_PIXELS:
            print_note(
                f"the strip shows images at up to {CELL_PIXELS} pixels a side; --images-dir writes each as it is"
            )
        if images[0].mode.endswith("A"):
            print_note("the strip shows images over white; --images-dir writes each with its alpha channel")
        channels = 1 if images[0].mode in ("L", "I;16") else 3
        cells = []
        for image in (*before, *images):
            cell = to_model_mode(image, channels)
            cell.thumbnail((CELL_PIXELS, CELL_PIXELS))
            cells.append(cell)
        save_png(image_grid(cells, len(cells)), args.out, metadata)
    print(printable(args.out))
