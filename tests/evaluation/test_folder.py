"""evaluate.py --images: the distance between two folders, and the size at which it is taken."""

import json
import math

import numpy as np
import pytest
from PIL import Image

import evaluate
from common.errors import UserError, run_cli
from evaluation.folder import choose_size
from evaluation.source import find_source


def save(folder, sizes, shade=0):
    """Noise images, one of each (width, height) of `sizes`, named 0.png, 1.png and so on."""
    folder.mkdir(exist_ok=True)
    for index, (width, height) in enumerate(sizes):
        noise = np.random.default_rng(index).integers(shade, shade + 100, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    return folder


def run(images, reference, out, *more):
    command = ["--images", images, "--reference", reference, "--out", out, *more]
    assert run_cli(evaluate.main, [str(word) for word in command]) == 0
    return json.loads(out.read_text())


def refusal(capsys, *command):
    assert run_cli(evaluate.main, [str(word) for word in command]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


@pytest.fixture
def reference(tmp_path):
    return save(tmp_path / "reference", [(32, 32)] * 3)


@pytest.mark.parametrize(("other", "low", "high"), [("dark", -1e-3, 1e-3), ("light", 1, math.inf)])
def test_a_folder_is_at_distance_zero_from_itself_and_far_from_another(tmp_path, other, low, high):
    for name, shade in (("dark", 0), ("light", 100)):
        save(tmp_path / name, [(32, 32)] * 4, shade)
    report = run(tmp_path / "dark", tmp_path / other, tmp_path / "r.json")
    assert set(report) == {"images", "samples", "data"}
    assert low < report["samples"]["frechet_distance"] < high
    assert report["samples"]["images"] == 4
    assert report["samples"]["size"] == 32


def test_the_size_is_the_shorter_side_that_all_images_have(tmp_path, reference):
    images = save(tmp_path / "images", [(24, 30), (40, 24), (24, 24)])
    report = run(images, reference, tmp_path / "r.json")
    assert report["samples"]["size"] == report["data"]["images"]["size"] == report["data"]["reference"]["size"] == 24


def test_several_sizes_need_one_that_is_given(tmp_path, reference, capsys):
    images = save(tmp_path / "images", [(16, 16), (40, 40), (40, 41)])
    line = refusal(capsys, "--images", images, "--reference", reference, "--out", tmp_path / "r.json")
    assert "40 pixels (2), 16 pixels (1)" in line
    assert "--size 40" in line
    assert not (tmp_path / "r.json").exists()


def test_a_given_size_holds_whatever_the_names(tmp_path, reference, capsys):
    images = save(tmp_path / "images", [(16, 16), (40, 40), (40, 40)])
    before = run(images, reference, tmp_path / "r.json", "--size", "24")
    assert "3 images are scaled to 24 pixels, 1 of them enlarged" in capsys.readouterr().err
    (images / "0.png").rename(images / "z.png")
    after = run(images, reference, tmp_path / "r.json", "--size", "24")
    assert before["samples"]["size"] == 24
    assert math.isclose(
        before["samples"]["frechet_distance"], after["samples"]["frechet_distance"], rel_tol=1e-3, abs_tol=1e-3
    )


def test_a_damaged_first_file_is_skipped_and_counted(tmp_path, reference, capsys):
    images = save(tmp_path / "images", [(32, 32)] * 4)
    (images / "0.png").write_bytes(b"damaged")
    (images / "._1.png").write_bytes(b"hidden")
    found = run(images, reference, tmp_path / "r.json")["data"]["images"]
    assert (found["found"], found["scored"], found["skipped"]) == (4, 3, 1)
    assert sum(found["left_out"].values()) == 1
    before_work = capsys.readouterr().err.partition("read and score")[0]
    assert f"images: all images of {images}: 4 images" in before_work
    assert "reference: all images of" in before_work


def test_digits_are_read_at_their_own_size(tmp_path, capsys):
    images = find_source(str(save(tmp_path / "images", [(28, 28)] * 3)))
    assert choose_size(images, find_source("mnist5k"), None) == 32
    assert "3 images are scaled to 32 pixels, 3 of them enlarged" in capsys.readouterr().err
    assert choose_size(find_source("mnist5k"), images, None) == 32
    with pytest.raises(UserError, match="leave out --size"):
        choose_size(images, find_source("mnist5k"), 28)


@pytest.mark.parametrize(
    "flags", ["--n 20", "--seed 1", "--steps 4", "--no-download", "--only reconstruction", "--no-skip-unchanged"]
)
def test_flags_of_a_model_are_refused(tmp_path, reference, capsys, flags):
    command = ["--images", reference, "--reference", reference, "--out", tmp_path / "r.json", *flags.split()]
    assert "only act with --model" in refusal(capsys, *command)


@pytest.mark.parametrize("size", [0, -3, 5000])
def test_a_size_out_of_range_is_refused(tmp_path, reference, capsys, size):
    command = ["--images", reference, "--reference", reference, "--out", tmp_path / "r.json", "--size", size]
    assert "--size must lie in" in refusal(capsys, *command)


def test_folders_in_which_nothing_decodes_are_refused(tmp_path, reference, capsys):
    (tmp_path / "damaged").mkdir()
    for index in range(2):
        (tmp_path / f"damaged/{index}.png").write_bytes(b"damaged")
    line = refusal(capsys, "--images", tmp_path / "damaged", "--reference", reference, "--out", tmp_path / "r.json")
    assert "none of the 2 images" in line
