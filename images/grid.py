"""Image grids: several images of one size, arranged in one image."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image


def image_grid(images: Sequence[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """One image that shows `images` row by row in `columns` columns, with `gap` white pixels between them."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    grid = Image.new(images[0].mode, size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        grid.paste(image, (column * (width + gap), row * (height + gap)))
    return grid


def paired_grid(above: Sequence[Image.Image], below: Sequence[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """One image that shows each image of `above` over the image of `below` at the same index, in at most `columns` columns."""
    columns = min(columns, len(above))
    blank = Image.new(above[0].mode, above[0].size, "white")
    cells: list[Image.Image] = []
    for start in range(0, len(above), columns):
        for row in (above[start : start + columns], below[start : start + columns]):
            cells += [*row, *[blank] * (columns - len(row))]
    return image_grid(cells, columns, gap)
