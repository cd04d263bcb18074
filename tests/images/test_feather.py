import numpy as np
import pytest

from images.feather import blend_edge
from tests.images.masks import mask_of

MASK = mask_of((20, 40), (10, 0, 40, 20))
ORIGINAL = np.full((20, 40), 100, np.uint8)
PAINTED = np.full((20, 40), 160, np.uint8)


def test_the_edge_continues_the_kept_pixels_and_the_inside_is_unchanged():
    result = blend_edge(PAINTED, ORIGINAL, MASK, 8)
    assert abs(int(result[10, 10]) - 100) <= 1, "the first repainted pixel must meet the kept ones"
    assert (result[:, 18:] == 160).all(), "pixels beyond the blend width must not change"
    assert (np.diff(result[10, 10:19].astype(int)) >= 0).all(), "the correction must fade monotonically"


@pytest.mark.parametrize("shape", [(20, 40), (20, 40, 3)])
def test_a_wider_blend_changes_more_pixels(shape):
    painted, original = np.full(shape, 160, np.uint8), np.full(shape, 100, np.uint8)
    changed = [int((blend_edge(painted, original, MASK, width) != painted).sum()) for width in (1, 4, 12)]
    assert changed == sorted(set(changed))


def test_the_old_content_of_repainted_pixels_has_no_influence():
    other = np.where(MASK, 7, ORIGINAL).astype(np.uint8)
    assert np.array_equal(blend_edge(PAINTED, other, MASK, 8), blend_edge(PAINTED, ORIGINAL, MASK, 8))


@pytest.mark.parametrize("mask", [np.ones_like(MASK), np.zeros_like(MASK)], ids=["all", "none"])
def test_without_kept_or_repainted_pixels_nothing_changes(mask):
    assert np.array_equal(blend_edge(PAINTED, ORIGINAL, mask, 8), PAINTED)


def test_a_huge_width_is_limited():
    assert np.array_equal(blend_edge(ORIGINAL, ORIGINAL, MASK, 4_000_000_000), ORIGINAL)


def test_strips_give_the_result_of_the_whole_image(monkeypatch):
    rng = np.random.default_rng(0)
    painted, original = (rng.integers(0, 256, (90, 70, 3), np.uint8) for _ in range(2))
    mask = mask_of((90, 70), (20, 5, 60, 80), (2, 40, 30, 50))
    whole = blend_edge(painted, original, mask, 4)
    assert not np.array_equal(whole[mask], painted[mask])
    monkeypatch.setattr("images.feather.STRIP", 10)
    assert np.array_equal(blend_edge(painted, original, mask, 4)[mask], whole[mask])
