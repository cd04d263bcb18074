"""A tokenizer that does not fit the data of its prior stops the run."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

import train
from common.errors import UserError, run_cli
from images.dataset import DataConfig
from tests.tiny import TINY
from training.fit import check_classes, check_images, differing_settings
from training.run import labelled_key
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig

TRAINED = TokenizerConfig(width=8, blocks=1, quantizer=QuantizerConfig(codebook_size=16, kmeans_init=False))


@pytest.mark.parametrize(("key", "value"), [("image_size", 64), ("channels", 3)])
def test_images_of_another_shape_are_refused_with_the_key_and_both_values(tmp_path, key, value):
    tokenizer, data = Tokenizer(TRAINED, 32, 1), DataConfig()
    check_images(tokenizer, data, tmp_path)
    trained = getattr(data, key)
    with pytest.raises(UserError, match=rf"data.{key} is {value}, .* for {trained}: set data.{key}={trained}"):
        check_images(tokenizer, replace(data, **{key: value}), tmp_path)


@pytest.mark.parametrize("names", [["cat"], ["cat", "cow"], ["cat", "cow", "dog"], []])
def test_other_classes_are_refused_unless_allowed(tmp_path, names):
    (tmp_path / "config.json").write_text(json.dumps({"class_names": ["cat", "dog"]}))
    check_classes(tmp_path, ["cat", "dog"], DataConfig())
    with pytest.raises(UserError, match="allow_other_classes=true"):
        check_classes(tmp_path, names, DataConfig())
    check_classes(tmp_path, names, DataConfig(allow_other_classes=True))


def test_a_tokenizer_that_names_no_classes_is_accepted(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    check_classes(tmp_path, ["cat"], DataConfig())


def test_settings_that_differ_are_named():
    assert differing_settings(TRAINED, TRAINED) == ""
    given = TokenizerConfig(
        downsample=8, multipliers=[1, 2, 4, 4], width=8, blocks=1,
        quantizer=QuantizerConfig(codebook_size=32, kmeans_init=False),
    )  # fmt: skip
    found = differing_settings(TRAINED, given)
    assert "tokenizer.downsample=4 (not 8)" in found
    assert "tokenizer.quantizer.codebook_size=16 (not 32)" in found
    assert "width" not in found


def test_the_key_of_a_checkpoint_changes_with_classes_and_labels():
    labels = torch.tensor([0, 1])
    keys = {
        labelled_key("codes", ["a", "b"], labels), labelled_key("codes", ["a", "c"], labels),
        labelled_key("codes", ["a", "b"], 1 - labels), labelled_key("others", ["a", "b"], labels),
    }  # fmt: skip
    assert len(keys) == 4


@pytest.fixture
def folder(tiny_run, tmp_path):
    """A model folder with the tiny tokenizer, and a folder of images of classes "0" to "9" and "more"."""
    shutil.copytree(tiny_run / "tokenizer", tmp_path / "run/tokenizer")
    for name in (*map(str, range(10)), "more"):
        for split in ("train", "val"):
            file = tmp_path / "images" / split / name / "0.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (40, 32), 9).save(file)
    return tmp_path


def encode(folder, *overrides):
    data = ["data.source=folder", f"data.path={folder / 'images'}", f"output_dir={folder / 'run'}"]
    return run_cli(train.main, ["encode", "--config", "configs/mnist.yaml", *TINY, *data, *overrides])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.image_size=64", "set data.image_size=32"),
        ("data.channels=3", "set data.channels=1"),
        ("seed=0", "11 classes, such as 'more', but the tokenizer in"),
    ],
)
def test_the_stage_stops_before_anything_is_encoded(folder, capfd, override, said):
    assert encode(folder, override) == 2
    assert said in capfd.readouterr().err
    assert not (folder / "run/codes").exists()


def test_allowed_data_is_encoded_after_it_is_described(folder, capfd):
    assert encode(folder, "data.allow_other_classes=true", "tokenizer.downsample=2", "tokenizer.multipliers=[1,2]") == 0
    captured = capfd.readouterr()
    assert "11 classes with their training images: 0 1, 1 1," in captured.out
    assert "22 of 22 images are not square and were cropped" in captured.out
    assert "note: the values of" in captured.err
    assert "tokenizer.downsample=4 (not 2)" in captured.err
