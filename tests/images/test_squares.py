import logging

import numpy as np
import pytest
import torch
from PIL import Image

from images.folder import find_images
from images.squares import decode_square, fit_square, read_squares, stack_squares


def save(file, shade=0, size=(8, 8)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(file)


def test_squares_are_read_in_batches_of_files(tmp_path):
    for index in range(7):
        save(tmp_path / f"{index}.png", shade=index)
    batches = list(read_squares(find_images(tmp_path), size=4, channels=3, batch_size=3))
    assert [len(batch.pixels) for batch in batches] == [3, 3, 1]
    assert torch.cat([batch.pixels for batch in batches])[:, 0, 0, 0].tolist() == list(range(7))
    assert [file.name for batch in batches for file in batch.files] == [f"{index}.png" for index in range(7)]
    assert batches[0].pixels.shape == (3, 3, 4, 4)
    assert batches[0].pixels.dtype == torch.uint8


def test_damaged_files_are_left_out_of_their_batch_and_named(tmp_path, caplog):
    for index in range(6):
        save(tmp_path / f"{index}.png", shade=index)
    for index in (1, 2, 3):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        batches = list(read_squares(find_images(tmp_path), size=4, channels=1, batch_size=2))
    assert [[file.name for file in batch.files] for batch in batches] == [["0.png"], ["4.png", "5.png"]]
    assert [len(batch.pixels) for batch in batches] == [1, 2]
    assert [f"{index}.png" in record.message for index, record in zip((1, 2, 3), caplog.records, strict=True)] == [
        True
    ] * 3


def test_files_are_decoded_when_their_batch_is_due(tmp_path):
    files = [tmp_path / f"{index}.png" for index in range(4)]
    for file in files[:2]:
        save(file)
    batches = read_squares(files, size=4, channels=1, batch_size=2)
    assert len(next(batches).files) == 2
    for file in files[2:]:
        save(file)
    assert len(next(batches).files) == 2


def test_a_file_that_does_not_decode_is_none(tmp_path):
    save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert decode_square(tmp_path / "good.png", 4, 1).image.size == (4, 4)
    assert decode_square(tmp_path / "bad.png", 4, 1) is None


def test_the_square_is_the_centre():
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 200
    assert (np.asarray(fit_square(Image.fromarray(pixels), 4, 1)) == 200).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_stacked_squares_keep_their_pixels(channels):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8))
    square = fit_square(image, 4, channels)
    pixels = stack_squares([square, square])
    assert pixels.shape == (2, channels, 4, 4)
    assert np.array_equal(pixels[1].permute(1, 2, 0).squeeze(-1).numpy(), np.asarray(square))


def test_images_that_were_not_square_are_counted(tmp_path):
    for index, size in enumerate([(8, 8), (8, 9), (20, 8)]):
        save(tmp_path / f"{index}.png", size=size)
    assert [batch.cropped for batch in read_squares(find_images(tmp_path), 4, 1, batch_size=2)] == [1, 1]
