import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from images.mask import blank_hidden, image_mask
from tests.images.masks import mask_of

SHAPE = (10, 20)


def half_transparent():
    image = Image.new("RGBA", (20, 10), (1, 2, 3, 255))
    image.paste((0, 0, 0, 0), (15, 5, 20, 10))
    return image


def mask_image(mode, background, *box):
    image = Image.new(mode, (20, 10), background)
    image.paste("white", box)
    return image


def test_white_pixels_and_boxes_are_repainted():
    image, white = half_transparent(), mask_image("L", 0, 0, 0, 2, 2)
    boxes = [(4, 4, 6, 6), (5, 5, 7, 7)]
    assert np.array_equal(image_mask(image, white), mask_of(SHAPE, (0, 0, 2, 2)))
    assert np.array_equal(image_mask(image, None, boxes), mask_of(SHAPE, *boxes))
    assert np.array_equal(image_mask(image, white, boxes), mask_of(SHAPE, (0, 0, 2, 2), *boxes))


def test_an_empty_mask_image_is_allowed_beside_a_box():
    assert image_mask(half_transparent(), Image.new("L", (20, 10)), [(0, 0, 1, 1)]).sum() == 1


def test_transparent_pixels_are_repainted_without_mask_and_boxes():
    assert np.array_equal(image_mask(half_transparent()), mask_of(SHAPE, (15, 5, 20, 10)))


def test_a_transparent_colour_counts_as_transparent(tmp_path):
    image = Image.new("RGB", (20, 10), (10, 20, 30))
    image.paste((200, 0, 0), (0, 0, 5, 5))
    image.save(tmp_path / "a.png", transparency=(200, 0, 0))
    assert np.array_equal(image_mask(Image.open(tmp_path / "a.png")), mask_of(SHAPE, (0, 0, 5, 5)))


@pytest.mark.parametrize(("grey", "pixels"), [(127, 0), (128, 200)])
def test_grey_counts_as_white_from_128_on(grey, pixels):
    image = Image.new("RGB", (20, 10))
    box = [(0, 0, 1, 1)]  # so that an empty mask image is allowed
    assert image_mask(image, Image.new("L", (20, 10), grey), box).sum() == max(1, pixels)


@pytest.mark.parametrize(
    ("mode", "background"), [("1", 0), ("RGB", "black"), ("RGBA", (255, 255, 255, 0)), ("LA", (255, 0))]
)
def test_a_mask_image_may_have_any_mode_and_transparent_pixels_are_black(mode, background):
    found = image_mask(Image.new("RGB", (20, 10)), mask_image(mode, background, 0, 0, 4, 4))
    assert np.array_equal(found, mask_of(SHAPE, (0, 0, 4, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([half_transparent(), Image.new("L", (10, 20))], "mask is 10 x 20 and the image 20 x 10"),
        ([half_transparent(), Image.new("L", (20, 10))], "no white pixel"),
        ([half_transparent(), None, [(4, 4, 25, 6)]], "4,4,25,6 does not lie in the image of 20 x 10"),
        ([half_transparent(), None, [(-1, 4, 5, 6)]], "does not lie in"),
        ([half_transparent(), None, [(6, 4, 6, 6)]], "does not lie in"),
        ([half_transparent(), None, [(0, 4, 5, 11)]], "does not lie in"),
        ([Image.new("RGB", (20, 10))], "nothing to repaint: give a mask or a box"),
        ([Image.new("RGBA", (4, 4), "red")], "no pixel of the image is transparent"),
    ],
)
def test_masks_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        image_mask(*arguments)


def test_hidden_pixels_become_the_mean_of_the_kept_ones():
    images = torch.tensor([[[1.0, 0.0], [0.5, 0.9]], [[0.3, 0.3], [0.0, 9.0]]])[None]  # two channels
    hidden = torch.tensor([[[False, False], [False, True]]])
    expected = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.3, 0.3], [0.0, 0.2]]])[None]
    torch.testing.assert_close(blank_hidden(images, hidden), expected)
    assert blank_hidden(images, torch.ones_like(hidden)).abs().max() == 0
    assert torch.equal(blank_hidden(images, torch.zeros_like(hidden)), images)
