import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from images.modes import flatten_alpha, to_model_mode, usual_mode, writable_mode


def array_image(values, dtype):
    return Image.fromarray(np.array([values], dtype))


@pytest.mark.parametrize(
    ("image", "mode", "values"),
    [
        (array_image([0, 7000], np.int32), "I;16", [0, 7000]),
        (array_image([0, 200], np.int32), "L", [0, 200]),
        (array_image([0, 0.5, 1], np.float32), "L", [0, 128, 255]),
        (array_image([0, 0.5, 200], np.float32), "L", [0, 0, 200]),
        (array_image([0, 7], np.uint16), "I;16", [0, 7]),
        (Image.frombytes("I;16B", (2, 1), bytes([1, 0, 0, 2])), "I;16", [256, 2]),
    ],
    ids=["int32 of 16 bits", "int32 of 8 bits", "floats to 1", "floats to 255", "16 bits", "big endian"],
)
def test_grey_images_become_8_or_16_bits(image, mode, values):
    found = usual_mode(image)
    assert found.mode == mode
    assert np.asarray(found).tolist() == [values]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_8_bit_images_are_returned_themselves(mode):
    image = Image.new(mode, (2, 2))
    assert usual_mode(image) is image


@pytest.mark.parametrize(
    "image",
    [
        array_image([-1, 5], np.int32),
        array_image([70_000], np.int32),
        array_image([-0.1], np.float32),
        array_image([256], np.float32),
        array_image([np.nan], np.float32),
        array_image([np.inf], np.float32),
    ],
)
def test_values_out_of_range_are_refused(image):
    with pytest.raises(UserError, match="save it with 8 or 16 bits"):
        usual_mode(image)


def test_16_bits_are_scaled_to_8_for_the_model():
    image = array_image([0, 128, 129, 257 * 7, 65535], np.uint16)
    assert np.asarray(to_model_mode(image, 1)).tolist() == [[0, 0, 1, 7, 255]]
    assert to_model_mode(image, 3).mode == "RGB"


@pytest.mark.parametrize(("under", "grey"), [("white", 255), ("black", 0)])
def test_transparency_is_composited_over_a_background(under, grey):
    image = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
    assert to_model_mode(image, 3, under).getpixel((0, 0)) == (grey, grey, grey)
    half = Image.new("LA", (1, 1), (100, 128))
    expected = (100 * 128 + grey * 127) / 255
    assert to_model_mode(half, 1, under).getpixel((0, 0)) == pytest.approx(expected, abs=1)


def with_palette(image):
    image.putpalette([level for index in range(256) for level in (index, 0, 0)])
    return image


TRANSPARENT = {  # a pixel of each mode that has transparency, and whether it is opaque
    "L": (Image.new("L", (2, 1), 9), 9, 7),
    "1": (Image.new("1", (2, 1), 0), 0, 255),
    "P": (with_palette(Image.new("P", (2, 1), 9)), 9, 7),
    "RGB": (Image.new("RGB", (2, 1), (1, 2, 3)), (1, 2, 3), (7, 7, 7)),
    "I;16": (array_image([600, 600], np.uint16), 600, 7),
}


@pytest.mark.parametrize(("image", "transparent", "opaque"), TRANSPARENT.values(), ids=TRANSPARENT)
def test_a_transparent_colour_is_composited_and_flattened_to_white(image, transparent, opaque, tmp_path):
    image.putpixel((1, 0), opaque)
    found = saved_and_opened(image, tmp_path / "a.png", transparency=transparent)
    for flat in (to_model_mode(found, 1), flatten_alpha(found)):
        assert np.asarray(flat.convert("L"))[0, 0] == 255
    assert np.asarray(to_model_mode(found, 1, under="black"))[0, 0] == 0
    assert np.array_equal(np.asarray(writable_mode(found).getchannel("A")), [[0, 255]])


def saved_and_opened(image, path, **options):
    image.save(path, **options)
    return Image.open(path)


@pytest.mark.parametrize(
    ("mode", "written"), [("1", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB"), ("PA", "RGBA")]
)
def test_other_modes_are_converted_for_writing(mode, written):
    assert writable_mode(Image.new(mode, (2, 2))).mode == written


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_modes_that_are_kept_for_writing(mode):
    image = Image.new(mode, (2, 2))
    assert writable_mode(image) is image


@pytest.mark.parametrize(
    ("image", "transparent", "written"),
    [
        (Image.new("L", (2, 1), 9), 9, "LA"),
        (Image.new("RGB", (2, 1), (1, 2, 3)), (1, 2, 3), "RGBA"),
        (array_image([600, 600], np.uint16), 600, "LA"),
    ],
    ids=["L", "RGB", "I;16"],
)
def test_a_transparent_colour_becomes_an_alpha_channel(image, transparent, written, tmp_path):
    opaque = 7 if image.mode != "RGB" else (7, 7, 7)
    image.putpixel((1, 0), opaque)
    found = writable_mode(saved_and_opened(image, tmp_path / "a.png", transparency=transparent))
    assert found.mode == written
    assert np.asarray(found.getchannel("A")).tolist() == [[0, 255]]


@pytest.mark.parametrize(("mode", "colour", "white"), [("RGBA", [10, 20, 30], [255] * 3), ("LA", 10, 255)])
def test_flattened_pixels_keep_their_own_colour_and_transparent_ones_are_white(mode, colour, white):
    image = Image.new(mode, (3, 1))
    for x, alpha in enumerate((255, 64, 0)):
        image.putpixel((x, 0), (*np.atleast_1d(colour).tolist(), alpha))
    flat = flatten_alpha(image)
    assert flat.mode == mode.removesuffix("A")
    assert np.asarray(flat).tolist() == [[colour, colour, white]]


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_images_without_alpha_are_flat(mode):
    image = Image.new(mode, (2, 2))
    assert flatten_alpha(image) is image
