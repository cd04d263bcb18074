"""Decoding image files as squares of one size. The only place that skips damaged files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from images.io import read_image
from images.modes import to_model_mode

log = logging.getLogger(__name__)


class Square(NamedTuple):
    """A decoded image.

    Attributes:
        image: S pixels a side.
        cropped: whether the file holds an image that is not square.
    """

    image: Image.Image
    cropped: bool


class Squares(NamedTuple):
    """Decoded images and the files that they come from.

    Attributes:
        pixels: uint8 `(B, C, S, S)`.
        files: B paths.
        cropped: the number of images that were not square.
    """

    pixels: Tensor
    files: list[Path]
    cropped: int


def read_squares(files: Iterable[Path], size: int, channels: int, batch_size: int) -> Iterator[Squares]:
    """Decode `files` in their order, `batch_size` files at a time.

    A file that does not decode is left out, so its batch is smaller. A batch without any image is left out too.
    """
    remaining = iter(files)
    while chunk := list(islice(remaining, batch_size)):
        decoded = [(file, square) for file in chunk if (square := decode_square(file, size, channels)) is not None]
        if decoded:
            squares = [square for _, square in decoded]
            pixels = stack_squares([square.image for square in squares])
            yield Squares(pixels, [file for file, _ in decoded], sum(square.cropped for square in squares))


def decode_square(file: Path, size: int, channels: int) -> Square | None:
    """The image of `file`, see `fit_square`; None and a warning in the log where the file does not decode."""
    try:
        image = read_image(file)
        return Square(fit_square(image, size, channels), cropped=image.width != image.height)
    except UserError as error:
        log.warning("skipped: %s", error)
        return None


def fit_square(image: Image.Image, size: int, channels: int) -> Image.Image:
    """Centre crop to a square and resize with antialiasing to `size` pixels a side."""
    image = to_model_mode(image, channels)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), Image.Resampling.LANCZOS)


def stack_squares(squares: Sequence[Image.Image]) -> Tensor:
    """uint8 `(N, C, S, S)` of images that `fit_square` made."""
    pixels = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
