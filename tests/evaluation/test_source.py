"""Which images a reference stands for, and their classes."""

import pytest
from PIL import Image

from common.errors import UserError
from evaluation.source import find_source
from images.folder import read_splits

CLASSES = {"cat": 20, "dog": 20}


def save(root, counts):
    """Grey images, `counts` in each folder under `root`; "" is `root` itself."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("L", (8, 8), index).save(root / folder / f"{index:02d}.png")
    return root


def write_config(file, data):
    file.write_text("data:\n" + "".join(f"  {key}: {value}\n" for key, value in data.items()))
    return file


@pytest.fixture
def hashed(tmp_path):
    return save(tmp_path / "hashed", CLASSES)


@pytest.fixture
def split(tmp_path):
    """A folder with train/ and val/, of which val/ lacks a class."""
    return save(tmp_path / "split", {"train/cat": 3, "train/dog": 2, "val/dog": 4})


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_part_of_a_folder_split_by_hash_is_that_of_training(hashed, part):
    found = find_source(f"{hashed}:{part}")
    assert (found.root, list(found.files)) == read_splits(hashed, 0.1).split(part)
    assert list(found.classes) == [file.parent.name for file in found.files]
    assert found.split == part
    assert "0.1" in found.about


def test_both_parts_are_the_whole_folder(hashed):
    parts = [list(find_source(f"{hashed}{ending}").files) for ending in ("", ":train", ":val")]
    assert parts[0] == sorted(parts[1] + parts[2])
    assert len(parts[0]) == 40
    assert len(parts[2]) > 0


def test_a_part_of_a_folder_with_train_and_val_has_the_classes_of_that_part(split):
    found = find_source(f"{split}:val")
    assert list(found.classes) == ["dog"] * 4
    assert {file.parent for file in found.files} == {split / "val/dog"}


def test_a_whole_folder_with_train_and_val_has_no_class_called_train(split, capsys):
    found = find_source(str(split))
    assert list(found.classes) == ["cat"] * 3 + ["dog"] * 6
    assert f"give {split}:val" in capsys.readouterr().err


def test_a_whole_folder_without_such_folders_gives_no_note(hashed, capsys):
    found = find_source(str(hashed))
    assert list(found.classes) == ["cat"] * 20 + ["dog"] * 20
    assert capsys.readouterr().err == ""


def test_a_folder_whose_own_name_ends_in_val_is_meant_itself(tmp_path):
    save(tmp_path / "shots:val", {"": 3})
    save(tmp_path / "shots", CLASSES)
    found = find_source(f"{tmp_path}/shots:val")
    assert (found.split, len(found.files)) == ("all", 3)
    assert (
        len(find_source(f"{tmp_path}/shots:val:train").files) + len(find_source(f"{tmp_path}/shots:val:val").files) == 3
    )


def test_a_name_may_begin_with_the_home_folder(hashed, monkeypatch):
    monkeypatch.setenv("HOME", str(hashed.parent))
    assert len(find_source("~/hashed").files) == 40
    assert find_source("~/hashed:val").files == find_source(f"{hashed}:val").files


@pytest.mark.parametrize(("ending", "part"), [("", "val"), (":val", "val"), (":train", "train")])
def test_a_training_configuration_stands_for_its_validation_images(hashed, tmp_path, ending, part):
    config = write_config(tmp_path / "run.yaml", {"source": "folder", "path": hashed, "holdout": 0.3})
    found = find_source(f"{config}{ending}")
    assert (found.root, list(found.files)) == read_splits(hashed, 0.3).split(part)
    assert len(read_splits(hashed, 0.3).split("val")[1]) > len(read_splits(hashed, 0.1).split("val")[1])
    assert "0.3" in found.about


@pytest.mark.parametrize(
    ("name", "split"), [("mnist5k", "val"), ("mnist5k:train", "train"), ("CONFIG", "val"), ("CONFIG:train", "train")]
)
def test_data_sets_have_parts_too(tmp_path, name, split):
    config = write_config(tmp_path / "run.yaml", {"source": "torchvision:CIFAR10", "path": tmp_path})
    found = find_source(name.replace("CONFIG", str(config)))
    assert found.data.source == ("torchvision:CIFAR10" if "CONFIG" in name else "mnist5k")
    assert found.split == split


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "no folder ''"),
        ("TMP/nowhere", "no folder"),
        ("TMP/nowhere:val", "no folder"),
        ("TMP/hashed:test", "FOLDER:val"),
        ("TMP/hashed/cat/00.png", "no folder"),
        ("TMP/run", "config.yaml"),
        ("TMP/bare.yaml", "data.path is ''"),
        ("TMP/wrong.yaml", "unknown"),
    ],
)
def test_what_stands_for_no_images_is_refused_in_one_line(hashed, tmp_path, name, message):
    save(tmp_path / "run", {"": 3})
    (tmp_path / "run/tokenizer").mkdir()
    (tmp_path / "run/tokenizer/config.json").write_text("{}")
    write_config(tmp_path / "bare.yaml", {"source": "folder"})
    write_config(tmp_path / "wrong.yaml", {"sauce": "folder"})
    with pytest.raises(UserError, match=message) as error:
        find_source(name.replace("TMP", str(tmp_path)))
    assert "\n" not in str(error.value)
