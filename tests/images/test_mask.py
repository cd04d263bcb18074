import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from images.mask import blank_hidden, image_mask, mask_doubt, mask_notes
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


def alpha_mask(colour, alpha=0):
    """A mask of one colour with a transparent box of a tenth of its pixels."""
    image = Image.new("RGBA", (20, 10), colour)
    image.paste((*image.getpixel((0, 0))[:3], alpha), (0, 0, 4, 5))
    return image


def noise(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


DOUBTFUL = {
    "a hole in white": (alpha_mask("white"), "to repaint the transparent ones, make them white"),
    "white on a transparent layer": (mask_image("RGBA", (0, 0, 0, 0), 0, 0, 4, 4), "white or transparent"),
    "grey and alpha": (mask_image("LA", (255, 0), 0, 0, 4, 4), "white or transparent"),
    "an image with a hole": (noise("RGBA"), "is it a mask, and not an image?"),
    "an image": (noise("RGB"), "neither black nor white"),
    "a grey image": (noise("L"), "neither black nor white"),
}


@pytest.mark.parametrize(("image", "why"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_a_mask_that_may_be_meant_otherwise_is_named(image, why):
    assert why in mask_doubt(image)


CLEAR = {
    "black and white": mask_image("L", 0, 0, 0, 4, 4),
    "one bit": mask_image("1", 0, 0, 0, 4, 4),
    "in colour": mask_image("RGB", "black", 0, 0, 4, 4),
    "opaque alpha": mask_image("RGBA", (0, 0, 0, 255), 0, 0, 4, 4),
    "white, black and transparent": alpha_mask("black"),
    "soft edges": mask_image("L", 0, 0, 0, 4, 4).resize((200, 100), Image.Resampling.BICUBIC),
}


@pytest.mark.parametrize("image", CLEAR.values(), ids=CLEAR)
def test_a_usual_mask_is_not_doubted(image):
    assert mask_doubt(image) == ""


def test_a_jpeg_mask_is_not_doubted(tmp_path):
    mask_image("L", 0, 0, 0, 10, 10).resize((64, 64)).save(tmp_path / "a.jpg", quality=50)
    assert mask_doubt(Image.open(tmp_path / "a.jpg")) == ""


@pytest.mark.parametrize(
    ("image", "mask", "notes"),
    [
        (noise("RGB"), mask_image("L", 0, 0, 0, 5, 5), ["mask: 12.5% of the image is repainted"]),
        (half_transparent(), None, ["12.5% of the image is repainted; 25 of these pixels were transparent"]),
        (noise("RGB"), mask_image("L", 0, 0, 0, 20, 9), ["mask: 90% of the image is repainted"]),
        (
            noise("L"),
            mask_image("L", 255, 0, 0, 1, 1),
            ["100% of the image is repainted; white is repainted and black"],
        ),
        (noise("L"), alpha_mask("white"), ["mask: 90% of the image is repainted", "make them white"]),
    ],
)
def test_how_much_is_repainted_is_always_said(image, mask, notes):
    found = mask_notes(image, mask, image_mask(image, mask))
    assert len(found) == len(notes)
    assert all(wanted in note for wanted, note in zip(notes, found, strict=True))


def test_a_mask_with_a_hole_in_black_says_how_to_draw_it():
    with pytest.raises(UserError, match=r"no white pixel: paint the pixels white .* transparent pixels are kept"):
        image_mask(noise("RGB"), alpha_mask("black"))


def test_hidden_pixels_become_the_mean_of_the_kept_ones():
    images = torch.tensor([[[1.0, 0.0], [0.5, 0.9]], [[0.3, 0.3], [0.0, 9.0]]])[None]  # two channels
    hidden = torch.tensor([[[False, False], [False, True]]])
    expected = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.3, 0.3], [0.0, 0.2]]])[None]
    torch.testing.assert_close(blank_hidden(images, hidden), expected)
    assert blank_hidden(images, torch.ones_like(hidden)).abs().max() == 0
    assert torch.equal(blank_hidden(images, torch.zeros_like(hidden)), images)
