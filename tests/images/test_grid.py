import numpy as np
import pytest
from PIL import Image

from images.grid import image_grid, paired_grid


def shades(first, count, mode="L"):
    return [Image.new("L", (4, 4), first + i).convert(mode) for i in range(count)]


def test_images_are_arranged_row_by_row_with_white_gaps():
    grid = np.asarray(image_grid(shades(10, 3), columns=2, gap=1))
    assert grid.shape == (9, 9)
    assert [grid[0, 0], grid[0, 5], grid[5, 0]] == [10, 11, 12]
    assert grid[4, 0] == grid[0, 4] == 255, "the gaps must be white"
    assert grid[5, 5] == 255, "the empty cell must be white"


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_mode_is_that_of_the_images(mode):
    grid = image_grid(shades(10, 2, mode), columns=1)
    assert (grid.mode, grid.size) == (mode, (4, 10))


def test_pairs_are_above_each_other_also_in_a_row_that_is_not_full():
    grid = np.asarray(paired_grid(shades(10, 5), shades(20, 5), columns=3, gap=0))[::4, ::4]
    assert grid.tolist() == [[10, 11, 12], [20, 21, 22], [13, 14, 255], [23, 24, 255]]


def test_a_paired_grid_is_not_wider_than_its_images():
    assert paired_grid(shades(10, 2), shades(20, 2), columns=8, gap=0).size == (8, 8)
