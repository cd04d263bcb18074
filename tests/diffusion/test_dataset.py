"""The encoded data set: codes are cached, labels are not."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from diffusion.dataset import codes_key, encode_images
from images.dataset import DataConfig
from images.sources import load_images


def encode(images):
    """Four codes an image: its shade."""
    return images.add(1).mul(127.5).round().long()[:, 0, :2, :2]


def encoded(images, folder):
    return encode_images(images, encode, 256, folder, Accelerator(cpu=True))


@pytest.fixture
def images(tmp_path):
    """Images 0 to 5, of which 1, 3 and 5 are of class "odd"."""
    for index in range(6):
        file = tmp_path / "images" / ("even", "odd")[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), index).save(file)

    def load(in_memory=True):
        config = DataConfig(source="folder", path=str(tmp_path / "images"), image_size=4, holdout=1e-9)
        config.in_memory = in_memory
        return load_images(config, "train")

    return load


def items(data):
    return [(int(codes[0, 0]), int(label)) for codes, label in (data[index] for index in range(len(data)))]


def test_codes_are_written_once_and_labels_come_from_the_data(images, tmp_path):
    assert items(encoded(images(), tmp_path / "codes")) == [(0, 0), (2, 0), (4, 0), (1, 1), (3, 1), (5, 1)]
    written = (tmp_path / "codes/codes.npy").stat().st_mtime_ns
    other = images()
    other.labels = 1 - other.labels  # the same images, of other classes
    assert items(encoded(other, tmp_path / "codes")) == [(0, 1), (2, 1), (4, 1), (1, 0), (3, 0), (5, 0)]
    assert (tmp_path / "codes/codes.npy").stat().st_mtime_ns == written


def test_labels_of_an_older_version_are_not_read(images, tmp_path):
    encoded(images(), tmp_path / "codes")
    (tmp_path / "codes/places.npy").unlink()
    np.save(tmp_path / "codes/labels.npy", np.zeros(6, np.int64))  # wrong
    assert items(encoded(images(), tmp_path / "codes"))[3:] == [(1, 1), (3, 1), (5, 1)]
    assert not (tmp_path / "codes/labels.npy").exists()


def test_the_image_in_place_of_a_damaged_one_keeps_its_own_label(images, tmp_path):
    (tmp_path / "images/even/4.png").write_bytes(b"no image")
    assert items(encoded(images(in_memory=False), tmp_path / "codes"))[2:4] == [(1, 1), (1, 1)]


def test_the_key_changes_with_the_weights_and_the_images(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    (tmp_path / "b").write_bytes(b"others")
    keys = {codes_key(tmp_path / name, images) for name in "ab" for images in ("first", "second")}
    assert len(keys) == 4
    assert torch.tensor([len(key) for key in keys]).eq(16).all()
