import json
from types import SimpleNamespace

import pytest

from evaluation.overlap import count_training_images
from evaluation.reference import ReferenceImages
from evaluation.source import find_source
from images.dataset import DataConfig
from images.folder import read_splits
from images.sources import load_images
from tests.evaluation.test_source import save, write_config


@pytest.fixture(params=["hash", "folders"])
def images(request, tmp_path):
    counts = {"cat": 30, "dog": 30}
    if request.param == "folders":
        counts = {f"{part}/{name}": 6 for part in ("train", "val") for name in ("cat", "dog")}
    return save(tmp_path / "images", counts)


@pytest.fixture(params=["config.yaml", "data_key"])
def model(request, images, tmp_path):
    """A model directory that knows its training images in one of the two ways."""
    folder = tmp_path / "model"
    (folder / "tokenizer").mkdir(parents=True)
    stored = {"data_source": "folder"}
    if request.param == "config.yaml":
        write_config(folder / "config.yaml", {"source": "folder", "path": images})
    else:
        data = DataConfig("folder", str(images), image_size=8, channels=1, flip=True)
        stored["data_key"] = load_images(data, "train").fingerprint[:16]
    (folder / "tokenizer/config.json").write_text(json.dumps(stored))
    return folder


def count(model, reference):
    return count_training_images(model, ReferenceImages(find_source(str(reference)), 8, 1))


def test_training_images_among_the_reference_are_counted(images, model):
    trained = len(read_splits(images, 0.1).split("train")[1])
    assert trained > 0
    assert [count(model, f"{images}{ending}") for ending in ("", ":train", ":val")] == [trained, trained, 0]


def test_the_folder_train_alone_is_known_too(images, model):
    if (images / "train").is_dir():
        assert [count(model, images / part) for part in ("train", "val")] == [12, 0]


def test_a_link_to_the_folder_does_not_hide_it(images, model, tmp_path):
    (tmp_path / "link").symlink_to(images)
    if (model / "config.yaml").exists():
        assert count(model, tmp_path / "link") == len(read_splits(images, 0.1).split("train")[1])


def test_images_of_another_folder_are_none_of_them(model, tmp_path):
    other = save(tmp_path / "other", {"cat": 3})
    assert count(model, other) == (0 if (model / "config.yaml").exists() else None)


def test_digits_know_their_part(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/config.json").write_text('{"data_source": "mnist5k"}')
    digits = [SimpleNamespace(source=find_source(f"mnist5k:{part}"), count=7) for part in ("train", "val")]
    assert [count_training_images(tmp_path, images) for images in digits] == [None, None]
    write_config(tmp_path / "config.yaml", {"source": "mnist5k"})
    assert [count_training_images(tmp_path, images) for images in digits] == [7, 0]
