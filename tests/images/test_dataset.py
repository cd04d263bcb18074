import logging

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from images.convert import to_pil, to_tensor
from images.dataset import DataConfig, ImageData, ImageFiles, WithFlips, load_folder
from images.io import read_image, save_png
from images.sources import load_images


def test_digits_are_split_fixed_and_stratified():
    train, val = load_images(DataConfig(), "train"), load_images(DataConfig(), "val")
    assert (len(train), len(val)) == (4500, 500)
    assert val.labels.bincount().tolist() == [50] * 10
    assert not {p.numpy().tobytes() for p in val.pixels} & {p.numpy().tobytes() for p in train.pixels}
    image, label = val[0]
    assert image.shape == (1, 32, 32) and image.min() == -1 and image.max() > 0.9 and label == 0
    assert bool((val.pixels[..., :2, :] == 0).all())


def make_pictures(folder, names, size=(40, 30)):
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        Image.new("RGB", size, (index, 100, 200)).save(folder / name)


def test_folder_with_classes_any_mode_and_one_broken_file(tmp_path, caplog):
    make_pictures(tmp_path / "cat", ["a.png"])
    (tmp_path / "dog").mkdir()
    Image.new("RGBA", (9, 20), (255, 0, 0, 0)).save(tmp_path / "dog" / "clear.png")
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "dog" / "deep.png")
    (tmp_path / "dog" / "broken.png").write_bytes(b"not a picture")
    with caplog.at_level(logging.WARNING):
        data = load_folder(tmp_path, 16, 3)
    assert data.class_names == ["cat", "dog"] and data.labels.tolist() == [0, 1, 1]
    assert [p.name for p in data.skipped] == ["broken.png"]
    assert sum("broken.png" in record.message for record in caplog.records) == 1
    assert bool((data.pixels[1:] == 255).all())  # transparency over white; 16 bits scaled down


def test_flat_folder_is_split_once_and_for_all(tmp_path):
    make_pictures(tmp_path / "flat", [f"{i}.png" for i in range(40)])
    config = DataConfig(source="folder", path=str(tmp_path / "flat"), image_size=8, channels=3, holdout=0.3)
    train, val = load_images(config, "train"), load_images(config, "val")
    assert len(train) + len(val) == 40 and 4 <= len(val) <= 20 and train.class_names == []
    reds = [set(split.pixels[:, 0, 0, 0].tolist()) for split in (train, val)]
    assert not reds[0] & reds[1]
    assert train.fingerprint != val.fingerprint


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(UserError, match="no images"):
        load_folder(tmp_path, 8, 3)
    with pytest.raises(UserError, match="no folder"):
        load_images(DataConfig(source="folder", path=str(tmp_path / "none")), "train")


def test_a_key_may_ask_for_the_flipped_image():
    data = load_images(DataConfig(), "val")
    assert torch.equal(data[3, True][0], data[3][0].flip(-1))
    assert torch.equal(data[3, False][0], data[3][0])
    with pytest.raises(IndexError):
        data[500]


def test_pixels_survive_the_round_trip_and_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    (again,) = to_pil(to_tensor(image, 1)[None])
    assert np.array_equal(np.asarray(again), np.asarray(image))
    save_png(image, tmp_path / "a.png", {"seed": "3"})
    assert Image.open(tmp_path / "a.png").text["seed"] == "3"

    def fail(self, fp, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UserError, match="No space"):
        save_png(Image.new("L", (2, 2)), tmp_path / "a.png")
    monkeypatch.undo()
    assert read_image(tmp_path / "a.png").size == (16, 16)
    assert torch.equal(to_tensor(read_image(tmp_path / "a.png"), 1), to_tensor(image, 1))


def test_a_folder_too_large_for_memory_is_read_when_asked(tmp_path, monkeypatch, caplog):
    for kind in ("cat", "dog"):
        make_pictures(tmp_path / kind, [f"{i}.png" for i in range(3)])
    (tmp_path / "dog" / "1.png").write_bytes(b"not a picture")
    config = {"source": "folder", "path": str(tmp_path), "image_size": 8, "channels": 3, "holdout": 1e-9}
    whole = load_images(DataConfig(**config, in_memory=True), "train")
    lazy = load_images(DataConfig(**config, in_memory=False), "train")
    assert isinstance(whole, ImageData) and isinstance(lazy, ImageFiles)
    assert (len(whole), len(lazy)) == (5, 6) and lazy.class_names == whole.class_names == ["cat", "dog"]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        items = [lazy[i] for i in range(6)] + [lazy[4]]
    assert sum("1.png" in record.message for record in caplog.records) == 1
    del items[4:5]  # the broken file's stand-in
    for (image, label), (wanted, wanted_label) in zip(items[:5], whole, strict=True):
        assert torch.equal(image, wanted) and label == wanted_label
    assert torch.equal(lazy[4][0], lazy[5][0]) and torch.equal(lazy[0, True][0], lazy[0][0].flip(-1))
    with pytest.raises(IndexError):
        lazy[6]
    monkeypatch.setattr("images.dataset.IN_MEMORY_LIMIT", 6 * 8 * 8 * 3 - 1)
    assert isinstance(load_images(DataConfig(**config), "train"), ImageFiles)
    monkeypatch.setattr("images.dataset.IN_MEMORY_LIMIT", 6 * 8 * 8 * 3)
    assert isinstance(load_images(DataConfig(**config), "train"), ImageData)


def test_both_ways_is_every_picture_and_its_mirror_image(tmp_path):
    for index in range(3):
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (16, 16), np.uint8)).save(
            tmp_path / f"{index}.png"
        )
    images = load_folder(tmp_path, 16, 1)
    both = WithFlips(images)
    assert len(both) == 6 and both.fingerprint != images.fingerprint
    for index in range(3):
        assert torch.equal(both[index][0], images[index][0]) and torch.equal(
            both[index + 3][0], images[index][0].flip(-1)
        )
    with pytest.raises(IndexError):
        both[6]
