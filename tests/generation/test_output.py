"""How many images --out shows, and images that are written as they come."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sample
from common.errors import UserError, run_cli
from generation.output import SHOWN_IMAGES, most_shown, save_each


def asked(n, folder=None, out="out.png"):
    return Namespace(n=n, images_dir=folder, out=Path(out))


def test_a_strip_holds_what_memory_allows():
    assert most_shown(asked(50), (64, 64)) == 50
    assert most_shown(asked(50), (6000, 4000), before=2) == 50  # shown at 1,024 x 683
    assert most_shown(asked(10**9, Path("all")), (64, 64)) == SHOWN_IMAGES
    with pytest.raises(
        UserError, match=r"--n 1000 is too large for out\.png: at most \d+ images of 1024 x 683; with --images-dir"
    ):
        most_shown(asked(1000), (6000, 4000))


def test_an_animation_holds_all_of_its_images_as_they_are():
    with pytest.raises(UserError, match=r"at most 3 images of 5000 x 5000$"):
        most_shown(asked(4, Path("all"), "out.gif"), (5000, 5000), whole=True)


def test_images_are_written_as_they_come(tmp_path):
    def endless():
        while True:
            yield Image.new("L", (8, 8)), "cat"

    images = save_each(asked(10**9, tmp_path), {"seed": "0"}, endless())
    for _ in range(3):
        next(images)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["000000.png", "000001.png", "000002.png"]
    assert Image.open(tmp_path / "000001.png").text == {"seed": "0", "index": "1", "label": "cat"}


def test_variants_of_several_batches_are_those_of_one(tiny_run, tmp_path, monkeypatch, in_float64):
    image = tmp_path / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)).save(image)

    def strip(name):
        out = tmp_path / name
        arguments = [
            "vary",
            "--model",
            str(tiny_run),
            "--image",
            str(image),
            "--out",
            str(out),
            "--n",
            "5",
            "--steps",
            "2",
        ]
        assert run_cli(sample.main, [*arguments, "--label", "random", "3"]) == 0
        return Image.open(out)

    whole = strip("whole.png")
    monkeypatch.setattr("generation.editing.BATCH_PIXELS", 2 * 32 * 32)
    parts = strip("parts.png")
    assert np.array_equal(whole, parts)
    monkeypatch.setattr("generation.output.SHOWN_IMAGES", 3)
    assert run_cli(sample.main, ["vary", "--model", str(tiny_run), "--image", str(image), "--out", str(tmp_path / "x.png"),
                                 "--n", "5"]) == 2  # fmt: skip
