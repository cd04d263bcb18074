"""Where the commands of sample.py write, and the metadata of an image."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from common.errors import UserError
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
    check_writable(args.out, suffix)
    if args.images_dir:
        check_writable(numbered(args.images_dir, 0))


def numbered(folder: Path, index: int) -> Path:
    """The file of image `index` in `--images-dir`."""
    return folder / f"{index:06d}.png"


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
            print(
                f"note: the strip shows images at up to {CELL_PIXELS} pixels a side; --images-dir writes each as it is",
                file=sys.stderr,
            )
        channels = 1 if images[0].mode in ("L", "I;16") else 3
        cells = []
        for image in (*before, *images):
            cell = to_model_mode(image, channels)
            cell.thumbnail((CELL_PIXELS, CELL_PIXELS))
            cells.append(cell)
        save_png(image_grid(cells, len(cells)), args.out, metadata)
    print(args.out)
