import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from app.previews import PREVIEW_SIDE, grid_preview, region_preview
from images.region import region_around
from tests.app.fake_generator import FakeGenerator
from tests.app.files import sample_image


def codes(height, width):
    return torch.zeros((3, height // 4, width // 4), dtype=torch.int64)


def test_a_preview_of_a_grid_is_the_grid():
    (grid,) = grid_preview(FakeGenerator(), 2)(codes(32, 32))
    assert grid.size == (2 * 32 + 2, 2 * 32 + 2)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(2000, 1000), (90, 40), (8, 8)])
def test_a_preview_is_pasted_under_the_mask_alone_and_at_most_of_its_size(size, mode):
    """FakeGenerator's tiles are grey."""
    image = sample_image(*size).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    mask = np.zeros(size[::-1], dtype=bool)
    mask[size[1] // 2 :, : size[0] // 2] = True
    region = region_around(mask, 32, 4, fit=True)
    previews = region_preview(FakeGenerator(), image, mask, region)(codes(*region.size))
    assert len(previews) == 3
    preview = np.asarray(previews[0])
    height, width = preview.shape[:2]
    assert max(width, height) == min(PREVIEW_SIDE, max(size))
    assert width / height == pytest.approx(size[0] / size[1], rel=0.02)
    assert (preview[height // 2 :, : width // 2] == 128).all()
    assert (preview[: height // 2] != 128).any(-1).mean() > 0.9
