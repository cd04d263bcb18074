import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from images.convert import as_pil, from_8_bits, pixels_to_pil, to_8_bits, to_output, to_pil, to_tensor


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_all_8_bit_values_survive_the_way_to_tensors_and_back(channels, mode):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(pixels if channels == 1 else np.stack([pixels, pixels.T, pixels[::-1]], axis=2))
    tensor = to_tensor(image, channels)
    assert tensor.shape == (channels, 16, 16)
    assert (tensor.min(), tensor.max()) == (-1, 1)
    (back,) = to_pil(tensor[None])
    assert back.mode == mode
    assert np.array_equal(np.asarray(back), np.asarray(image))


@pytest.mark.parametrize(("mode", "channels"), [("L", 3), ("RGB", 1), ("RGBA", 3), ("P", 1)])
def test_tensors_have_the_channels_that_are_asked_for(mode, channels):
    assert to_tensor(Image.new(mode, (5, 4)), channels).shape == (channels, 4, 5)


def test_pixels_and_floats():
    assert from_8_bits(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([-1, -0.6, 1])
    assert to_8_bits(torch.tensor([-7.0, -1.0, 0.0, 0.999, 1.0, 7.0])).tolist() == [0, 0, 128, 255, 255, 255]
    assert to_8_bits(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.uint8


def test_a_batch_of_pixels_becomes_one_image_each():
    pixels = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    images = pixels_to_pil(pixels)
    assert [(image.mode, image.size) for image in images] == [("RGB", (5, 4))] * 2
    assert np.array_equal(np.asarray(images[1]), pixels[1].permute(1, 2, 0).numpy())


RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RGB),
        RGB,
        RGB / 255,
        (RGB / 255).astype(np.float32),
        torch.from_numpy(RGB).permute(2, 0, 1),
        torch.from_numpy(RGB).permute(2, 0, 1)[None],
        torch.from_numpy(RGB / 255).permute(2, 0, 1),
    ],
    ids=["pil", "uint8", "float64", "float32", "tensor", "batch of one", "float tensor"],
)
def test_every_kind_of_input_becomes_the_same_pil_image(image):
    found = as_pil(image)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), RGB)


@pytest.mark.parametrize(
    ("image", "mode", "pixels"),
    [
        (np.array([[True, False]]), "L", [[255, 0]]),
        (np.array([[[7], [8]]], dtype=np.uint8), "L", [[7, 8]]),
        (np.array([[-0.5, 0.5, 1.5]]), "L", [[0, 128, 255]]),
        (torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16), "L", [[0, 255]]),
        (torch.tensor([[0.0, 1.0]], requires_grad=True), "L", [[0, 255]]),
        (np.zeros((1, 1, 2), dtype=np.uint8), "LA", [[[0, 0]]]),
        (np.ones((1, 1, 4)), "RGBA", [[[255, 255, 255, 255]]]),
    ],
)
def test_grey_alpha_bool_and_clamped_values(image, mode, pixels):
    found = as_pil(image)
    assert found.mode == mode
    assert np.asarray(found).tolist() == pixels


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("in.png", "got str: open the file first"),
        (np.zeros(4), r"got \(4,\)"),
        (np.zeros((2, 2, 5)), r"got \(2, 2, 5\)"),
        (np.zeros((0, 2)), r"got \(0, 2\)"),
        (torch.zeros(2, 3, 4, 4), r"got \(2, 3, 4, 4\)"),
        (np.full((2, 2), np.nan), "finite floats"),
        (np.zeros((2, 2), dtype=np.int64), "got int64"),
    ],
)
def test_other_inputs_are_refused(image, message):
    with pytest.raises(UserError, match=message):
        as_pil(image)


@pytest.mark.parametrize(
    ("mode", "white", "channels"),
    [("L", 255, 1), ("RGB", (255, 0, 255), 3), ("RGBA", (255, 0, 0, 255), 4), ("I;16", 65535, 1)],
)
def test_outputs_in_the_three_forms(mode, white, channels):
    images = [Image.new(mode, (3, 2), white)] * 2
    assert to_output(images, "pil") is images
    array, tensor = to_output(images, "np"), to_output(images, "pt")
    assert array.shape == (2, 2, 3, channels)
    assert array.dtype == np.float32
    assert array.max() == 1
    assert tensor.shape == (2, channels, 2, 3)
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
