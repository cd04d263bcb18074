from typing import ClassVar

import pytest
import torch
from PIL import Image

from common.errors import UserError
from images.dataset import DataConfig, WithFlips
from images.sources import load_images, open_source


def save(file, shade=0, size=(8, 8)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(file)


def folder_config(path, **more):
    return DataConfig(source="folder", path=str(path), image_size=8, channels=1, **more)


def named(images):
    """The class of each image, by its shade: images of one class have one shade."""
    return {
        (int(image.mul(127.5).add(127.5).round()[0, 0, 0]), images.class_names[int(label)]) for image, label in images
    }


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    "counts", [{"cat": 5, "dog": 10}, {f"class{index:02}": 10 for index in range(30)}], ids=["two", "thirty"]
)
@pytest.mark.parametrize("splits", [False, True], ids=["hash", "folders"])
def test_training_numbers_the_classes_of_both_splits(tmp_path, in_memory, counts, splits):
    for shade, (name, count) in enumerate(counts.items()):
        for index in range(count):
            folder = ("val" if index == 0 else "train") if splits else ""
            if not splits or index or shade % 3:  # not every class is in val/
                save(tmp_path / folder / name / f"{index}.png", shade)
    config = folder_config(tmp_path, in_memory=in_memory)
    train, val = load_images(config, "train"), load_images(config, "val")
    assert train.class_names == val.class_names == sorted(counts)
    assert named(train) == set(enumerate(counts))
    assert len(val) > 0
    assert named(val) <= set(enumerate(counts))


def test_an_image_beside_the_classes_does_not_take_the_labels(tmp_path):
    for index in range(10):
        save(tmp_path / "cat" / f"{index}.png")
        save(tmp_path / "dog" / f"{index}.png")
    save(tmp_path / "stray.png")
    source = open_source(folder_config(tmp_path))
    assert sorted(set(source.load("train").labels.tolist())) == [0, 1]
    assert "left out: 1 images beside the folders of the classes (stray.png)" in source.summary()


def test_the_summary_says_what_was_found(tmp_path):
    for name in ("train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "valid/cat/0.png"):
        save(tmp_path / name)
    (tmp_path / "train/cat/notes.txt").write_text("")
    (tmp_path / "__MACOSX").mkdir()
    assert open_source(folder_config(tmp_path)).summary() == [
        f"data: folder {tmp_path}",
        "3 images for training, 1 for validation (train/ and valid/)",
        "2 classes with their training images: cat 2, dog 1",
        "left out: 1 hidden or system files and folders (__MACOSX)",
        "left out: 1 files of other formats (.txt 1)",
        "images that are not square are cropped to the square in their centre; all are scaled to 8 x 8",
    ]
    assert open_source(DataConfig()).summary()[1] == "4,500 images for training, 500 for validation"


def test_both_directions_have_the_labels_of_their_images():
    both = WithFlips(load_images(DataConfig(), "val"))
    assert [int(both[index][1]) for index in (3, 503, 450, 950)] == [0, 0, 9, 9]


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DataConfig(path="~/images").path == str(tmp_path / "images")
    assert DataConfig(path="./~images").path == "./~images"
    with pytest.raises(ValueError, match="no such user"):
        DataConfig(path="~nobody-of-this-name/images")


class Tiny:
    """A data set of torchvision."""

    labels: ClassVar = {True: [0, 1, 0, 1], False: [0, 1]}  # of training images, and of others

    def __init__(self, root, train=True, download=False):
        assert download
        self.root, self.train = root, train

    def __iter__(self):
        return iter((Image.new("RGB", (10, 12), (i, 0, 0)), label) for i, label in enumerate(self.labels[self.train]))


@pytest.fixture
def tiny(monkeypatch):
    import torchvision.datasets

    kind = type("CIFAR10", (Tiny,), {"classes": ("bird", "ship")})
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", kind)
    return kind


@pytest.fixture
def config(tmp_path):
    return DataConfig(source="torchvision:CIFAR10", path=str(tmp_path), image_size=8, channels=3)


def test_a_set_of_torchvision(tiny, config):
    train, val = load_images(config, "train"), load_images(config, "val")
    assert (len(train), len(val)) == (4, 2)
    assert train.class_names == val.class_names == ["bird", "ship"]
    assert train.labels.tolist() == [0, 1, 0, 1]
    assert train.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert train.fingerprint != val.fingerprint
    assert train.cropped == 4
    assert open_source(config).summary()[1] == "2 classes with their training images: bird 2, ship 2"


def test_a_set_of_torchvision_that_cannot_be_read(tiny, config, monkeypatch):
    with pytest.raises(UserError, match="no such data set"):
        load_images(DataConfig(source="torchvision:Nothing"), "train")

    def fail(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(tiny, "__iter__", fail)
    with pytest.raises(UserError, match="place its files in"):
        load_images(config, "train")


@pytest.mark.parametrize("classes", [None, ("bird",)])
def test_labels_without_names_are_named_by_their_numbers(tiny, config, monkeypatch, classes):
    monkeypatch.setattr(tiny, "classes", classes or ())
    monkeypatch.setattr(tiny, "labels", {True: [0, -1, 2], False: [2, -1]})
    train, val = load_images(config, "train"), load_images(config, "val")
    assert train.class_names == val.class_names == ["0", "1", "2"]
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, -1, 2], [2, -1])


def test_a_label_that_training_does_not_have_is_an_error_by_name(tiny, config, monkeypatch):
    monkeypatch.setattr(tiny, "labels", {True: [0, 1], False: [0, 7]})
    with pytest.raises(UserError, match="class 7 is only in its val part"):
        load_images(config, "val")


def test_labels_are_integers(tiny, config):
    assert load_images(config, "train").labels.dtype == torch.int64
