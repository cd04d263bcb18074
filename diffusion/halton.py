"""The Halton sequence over a grid of codes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def halton_order(shape: tuple[int, ...]) -> Tensor:
    """Rank of each position of `shape` (n,), (h, w) or (h, w, G) in the Halton sequence of bases 2 and 3.

    The G sub-codes of a cell follow each other.
    """
    rows, columns = (1, shape[0]) if len(shape) == 1 else shape[:2]
    cells: dict[tuple[int, int], int] = {}
    number = 0
    while len(cells) < rows * columns:
        number += 1
        cells.setdefault(
            (int(_radical_inverse(number, 3) * rows), int(_radical_inverse(number, 2) * columns)), len(cells)
        )
    order = torch.tensor([[cells[row, column] for column in range(columns)] for row in range(rows)])
    depth = math.prod(shape[2:])
    return (order[..., None] * depth + torch.arange(depth)).view(shape)


def _radical_inverse(number: int, base: int) -> float:
    """The digits of `number` in `base`, mirrored behind the point."""
    value, place = 0.0, 1 / base
    while number:
        number, digit = divmod(number, base)
        value, place = value + digit * place, place / base
    return value
