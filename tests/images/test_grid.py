import numpy as np
from PIL import Image

from images.grid import image_grid, paired_grid


def shades(first, count):
    return [Image.new("L", (4, 4), first + i) for i in range(count)]


def test_images_stand_row_by_row_with_white_gaps():
    grid = np.asarray(image_grid(shades(10, 3), columns=2, gap=1))
    assert grid.shape == (9, 9)
    assert grid[0, 0] == 10
    assert grid[0, 5] == 11
    assert grid[5, 0] == 12
    assert grid[4, 0] == grid[0, 4] == grid[5, 5] == 255


def test_pairs_stand_over_each_other_also_in_a_row_that_is_not_full():
    grid = np.asarray(paired_grid(shades(10, 5), shades(20, 5), columns=3, gap=0))[::4, ::4]
    assert grid.tolist() == [[10, 11, 12], [20, 21, 22], [13, 14, 255], [23, 24, 255]]
