"""Images and masks of random modes, sizes and alpha, repainted: kept pixels must be identical to the bit."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from benchmarks.hostile_case import Case
from images.io import read_image
from images.mask import image_mask
from images.modes import writable_mode

IMAGE_MODES = ("L", "LA", "RGB", "RGBA", "P", "1", "I;16", "CMYK")
MASK_MODES = ("1", "L", "LA", "RGB", "RGBA", "P", "I;16")


def random_image(rng: Random, size: tuple[int, int], mode: str) -> Image.Image:
    """Random pixels; alpha is mostly 0 or 255."""
    pixels = np.random.default_rng(rng.getrandbits(64)).integers(0, 256, (size[1], size[0], 4), np.uint8)
    if rng.random() < 0.8:
        pixels[..., 3] = np.where(pixels[..., 3] < 128, 0, 255)
    if mode == "I;16":
        return Image.fromarray(pixels[..., :2].copy().view(np.uint16)[..., 0])
    return Image.fromarray(pixels, "RGBA").convert(mode)


def random_mask(rng: Random, size: tuple[int, int], mode: str) -> Image.Image:
    """A box, noise or nothing in white on black."""
    mask = Image.new("L", size)
    kind = rng.choice(("box", "box", "noise", "all", "none"))
    if kind == "box":
        left, top = rng.randrange(size[0]), rng.randrange(size[1])
        mask.paste(255, (left, top, rng.randint(left + 1, size[0]), rng.randint(top + 1, size[1])))
    elif kind == "noise":
        mask = random_image(rng, size, "L")
    elif kind == "all":
        mask.paste(255, (0, 0, *size))
    if mode == "I;16":
        return Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)
    return mask.convert(mode)


def difference(before: Image.Image, mask: np.ndarray, after: Image.Image) -> str:
    """How kept pixels changed, "" where they are identical; the mode and the size must be the same too."""
    if (after.mode, after.size) != (before.mode, before.size):
        return f"{before.mode} {before.size} became {after.mode} {after.size}"
    changed = np.asarray(before) != np.asarray(after)
    changed = changed.any(-1) if changed.ndim == 3 else changed
    count = int((changed & ~mask).sum())
    return f"{count} kept pixels changed" if count else ""


def hostile_mask(rng: Random, model: Path, folder: Path) -> Case:
    """An image and a mask or boxes, repainted by `sample.py inpaint`."""
    size = (rng.randint(4, 70), rng.randint(4, 70))
    mode = rng.choice(IMAGE_MODES)
    image_file, mask_file, out = (
        folder / f"in{'.tif' if mode == 'CMYK' else '.png'}",
        folder / "mask.png",
        folder / "out.png",
    )
    random_image(rng, size, mode).save(image_file)
    other = size if rng.random() < 0.95 else (size[0] + 1, size[1])
    random_mask(rng, other, rng.choice(MASK_MODES)).save(mask_file)
    arguments = ["inpaint", "--model", str(model), "--image", str(image_file), "--out", str(out), "--steps", "2",
                 "--margin", str(rng.choice((0, 1, 3))), "--feather", str(rng.choice((0, 1, 5))),
                 "--seed", str(rng.randrange(100))]  # fmt: skip
    boxes: list[tuple[int, int, int, int]] = []
    with_mask = rng.random() < 0.8
    if with_mask:
        arguments += ["--mask", str(mask_file)]
    if rng.random() < 0.3:
        boxes = [(0, 0, rng.randint(1, size[0]), rng.randint(1, size[1]))]
        arguments += ["--box", ",".join(map(str, boxes[0]))]
    if rng.random() < 0.3:
        arguments.append("--fit")

    def check() -> str:
        image = read_image(image_file)
        mask = image_mask(image, read_image(mask_file) if with_mask else None, boxes)
        with Image.open(out) as after:
            return difference(writable_mode(image), mask, after)

    return Case(f"mask of {size} {mode}", "sample.py", arguments, out, check)
