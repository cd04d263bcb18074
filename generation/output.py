"""Where the commands of sample.py write, and the metadata of an image."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
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
SHOWN_IMAGES = 1024  # of a strip or an animation
SHOWN_PIXELS = 100_000_000  # of a strip, and of the images of an animation: they are held in memory
GAP = 2  # pixels between the images of a strip
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


def most_shown(args: Namespace, size: tuple[int, int], before: int = 0, whole: bool = False) -> int:
    """How many of the `--n` images `--out` shows, after `before` given ones: all, or as many as memory allows.

    Args:
        size: (width, height) of an image.
        whole: whether it holds the images as they are, and all of them, as an animation does.

    Raises:
        UserError: before anything is computed, where that is fewer than `--n`, and no `--images-dir` holds the others.
    """
    scale = 1.0 if whole else min(1.0, CELL_PIXELS / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    most = max(1, min(SHOWN_IMAGES, SHOWN_PIXELS // ((width + GAP) * (height + GAP)) - before))
    if args.n > most and (whole or args.images_dir is None):
        files = "" if whole else "; with --images-dir FOLDER each is a file"
        raise UserError(f"--n {args.n} is too large for {args.out}: at most {most} images of {width} x {height}{files}")
    return int(min(args.n, most))


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


def image_metadata(args: Namespace, settings: SamplingSettings, label: str) -> dict[str, str]:
    """How an image was made, for the text fields of its PNG; `label` is the one that was used."""
    given = {name: vars(args)[name] for name in OWN if vars(args).get(name) not in (None, [], 0, False)}
    about = {"model": args.model.name, "command": args.command, "seed": args.seed, "label": label}
    return {name: str(value) for name, value in about.items()} | settings.metadata() | {
        name: str(value) for name, value in given.items()
    }  # fmt: skip


def print_settings(settings: SamplingSettings) -> None:
    """Say on stderr which settings were decided."""
    print(f"sampling: {settings.summary()}", file=sys.stderr)


def save_each(
    args: Namespace, metadata: dict[str, str], images: Iterable[tuple[Image.Image, str]]
) -> Iterator[Image.Image]:
    """The images of (image, label), each written into `--images-dir`, if given, as soon as it comes."""
    for index, (image, label) in enumerate(images):
        if args.images_dir:
            save_png(image, numbered(args.images_dir, index), metadata | {"index": str(index), "label": label})
        yield image


def write_strip(
    args: Namespace,
    metadata: dict[str, str],
    before: Sequence[Image.Image],
    images: Iterable[Image.Image],
    shown: int,
) -> None:
    """Write one image as it is, or the first `shown` of several as a strip after those of `before`; print the path."""
    cells: list[Image.Image] = []
    for index, image in enumerate(images):
        if args.n == 1:
            save_png(image, args.out, metadata)
        elif index < shown:
            channels = 1 if image.mode in ("L", "I;16") else 3
            cells += [_cell(one, channels) for one in (*(before if index == 0 else ()), image)]
            if index == 0 and max(image.size) > CELL_PIXELS:
                print_note(
                    f"the strip shows images at up to {CELL_PIXELS} pixels a side; --images-dir writes each as it is"
                )
            if index == 0 and image.mode.endswith("A"):
                print_note("the strip shows images over white; --images-dir writes each with its alpha channel")
    if args.n > 1:
        if args.n > shown:
            print_note(f"the strip shows the first {shown} of {args.n} images")
        save_png(image_grid(cells, len(cells), GAP), args.out, metadata)
    print(printable(args.out))


def _cell(image: Image.Image, channels: int) -> Image.Image:
    cell = to_model_mode(image, channels)
    cell.thumbnail((CELL_PIXELS, CELL_PIXELS))
    return cell
