import itertools

import numpy as np
import pytest
import torch

from evaluation.gallery import SHOWN, WORST, Gallery


def filled(psnr, batch_size=7):
    """A gallery of 1 x 1 images; image i has shade i, and its reconstruction 255 - i."""
    gallery = Gallery(len(psnr))
    pixels = torch.arange(len(psnr), dtype=torch.uint8)[:, None, None, None]
    for begin in range(0, len(psnr), batch_size):
        part = slice(begin, begin + batch_size)
        files = [f"{index}.png" for index in range(len(psnr))[part]]
        gallery.add(pixels[part], 255 - pixels[part], torch.tensor(psnr[part]), files)
    return gallery


@pytest.mark.parametrize("count", [5, SHOWN, 100])
def test_shown_images_are_spread_over_the_reference(count):
    shown = [pair.index for pair in filled([20.0] * count).shown]
    assert len(shown) == min(count, SHOWN)
    assert (shown[0], shown[-1]) == (0, count - 1)
    steps = {after - before for before, after in itertools.pairwise(shown)}
    assert max(steps) - min(steps) <= 1


def test_the_worst_come_first_and_equal_ones_in_their_order():
    psnr = [30.0, 10.0, float("inf"), 10.0, 20.0] * 4
    worst = filled(psnr).worst_entries()
    assert [entry["index"] for entry in worst] == [1, 3, 6, 8, 11, 13, 16, 18, 4, 9]
    assert [entry["psnr_db"] for entry in worst] == [10.0] * 8 + [20.0] * 2
    assert worst[0]["file"] == "1.png"
    assert len(worst) == WORST


def test_an_embedded_image_has_no_file():
    gallery = Gallery(1)
    gallery.add(
        torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.ones(1), [""]
    )
    assert gallery.worst_entries() == [{"index": 0, "psnr_db": 1.0}]


def test_every_image_is_above_its_reconstruction():
    grids = filled([3.0, 1.0, 2.0]).image_grids()
    columns = np.asarray(grids["worst"])[:, ::3]  # 1 pixel and a gap of 2
    assert columns[[0, 3]].tolist() == [[1, 2, 0], [254, 253, 255]]
    columns = np.asarray(grids["reconstructions"])[:, ::3]
    assert columns[[0, 3]].tolist() == [[0, 1, 2], [255, 254, 253]]
