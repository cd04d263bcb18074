"""`sample.py grid` on a tiny model: the grid, a folder of images, several processes, a trajectory."""

import shutil

import numpy as np
import pytest
from PIL import Image

import sample
from common.errors import run_cli
from tests.processes import run_two_processes


def content(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.png")}


def test_one_column_a_label(tiny_run, tmp_path):
    arguments = ["grid", "--model", str(tiny_run), "--n", "6", "--label", "1", "2", "3", "--steps", "2"]
    out = tmp_path / "new" / "grid.png"
    assert run_cli(sample.main, [*arguments, "--out", str(out), "--images-dir", str(tmp_path / "all")]) == 0
    assert Image.open(out).size == (3 * 34 - 2, 2 * 34 - 2)
    assert len(content(tmp_path / "all")) == 6


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "all"


@pytest.fixture
def fill(tiny_run, folder):
    """A function that fills `folder` in batches of four, and gives the exit code."""

    def run(n, *flags, labels=("3", "7")):
        arguments = ["grid", "--model", str(tiny_run), "--images-dir", str(folder), "--steps", "2", "--batch-size", "4"]
        return run_cli(sample.main, [*arguments, "--n", str(n), "--label", *labels, *flags])

    return run


def test_images_of_a_folder_say_how_they_were_made(fill, folder):
    assert fill(6) == 0
    assert sorted(content(folder)) == [f"{i:06d}.png" for i in range(6)]
    about = Image.open(folder / "000003.png").text
    assert {key: about[key] for key in ("seed", "index", "label", "num_inference_steps", "sampler", "model")} == {
        "seed": "0", "index": "3", "label": "7", "num_inference_steps": "2", "sampler": "tweedie", "model": "tiny"
    }  # fmt: skip


def test_a_folder_resumes_where_it_stopped(fill, folder, tmp_path, in_float64):
    assert fill(6) == 0
    before, written = content(folder), (folder / "000000.png").stat().st_mtime_ns
    (folder / "000005.png").unlink()
    assert fill(9, "--out", str(tmp_path / "grid.png")) == 0
    after = content(folder)
    assert len(after) == 9
    assert all(after[name] == before[name] for name in before)
    assert (folder / "000000.png").stat().st_mtime_ns == written  # its batch was whole, and is left out
    assert Image.open(tmp_path / "grid.png").size == (2 * 34 - 2, 5 * 34 - 2)


def test_a_folder_refuses_images_of_other_settings(fill, folder, capfd):
    assert fill(2) == 0
    before = content(folder)
    capfd.readouterr()
    assert fill(2, labels=["3"]) == 2
    assert "label" in capfd.readouterr().err
    assert fill(2, "--seed", "1") == 2
    assert "seed" in capfd.readouterr().err
    assert fill(2, "--out", str(folder / "000001.png")) == 2
    assert "choose another" in capfd.readouterr().err
    assert content(folder) == before


def test_a_folder_refuses_images_of_another_configuration_of_the_same_weights(tiny_run, tmp_path, capfd):
    model, folder = tmp_path / "model", tmp_path / "all"
    for part in ("tokenizer", "prior"):
        shutil.copytree(tiny_run / part, model / part)
    command = ["grid", "--model", str(model), "--images-dir", str(folder), "--steps", "2", "--n", "1"]
    assert run_cli(sample.main, command) == 0
    assert run_cli(sample.main, command) == 0
    config = model / "tokenizer/config.json"
    config.write_text(config.read_text().replace('"replicate"', '"zeros"'))
    capfd.readouterr()
    assert run_cli(sample.main, command) == 2
    assert "holds images of other settings (model files" in capfd.readouterr().err


@pytest.mark.parametrize("damaged", ["[]", "{", None])
def test_a_folder_whose_settings_are_damaged_or_missing_is_refused(fill, folder, capfd, damaged):
    assert fill(1) == 0
    before = content(folder)
    if damaged is None:
        (folder / "settings.json").unlink()
    else:
        (folder / "settings.json").write_text(damaged)
    capfd.readouterr()
    assert fill(1) == 2
    assert "settings.json" in capfd.readouterr().err
    assert content(folder) == before


def test_a_refused_command_leaves_a_folder_free(fill, folder):
    assert fill(2, "--steps", "0") == 2
    assert not folder.exists() or not list(folder.iterdir())
    assert fill(2) == 0


def test_two_processes_sample_the_images_of_one(tiny_run, tmp_path, in_float64):
    base = ["grid", "--model", str(tiny_run), "--steps", "2", "--batch-size", "2", "--num-images", "7", "--images-dir"]
    assert run_cli(sample.main, [*base, str(tmp_path / "one")]) == 0
    done = run_two_processes(
        "-m", "tests.float64", *base, str(tmp_path / "two"), "--out", str(tmp_path / "grid.png")
    )  # fmt: skip
    assert "4/4" in done.stderr  # the first process makes two of the four batches
    one, two = (
        [np.asarray(Image.open(file)) for file in sorted((tmp_path / name).glob("*.png"))] for name in ("one", "two")
    )
    assert len(one) == 7
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert Image.open(tmp_path / "grid.png").size == (3 * 34 - 2, 3 * 34 - 2)


def test_a_trajectory_goes_from_masked_codes_to_the_grid(tiny_run, tmp_path):
    arguments = ["grid", "--model", str(tiny_run), "--n", "4", "--steps", "5", "--out", str(tmp_path / "grid.png")]
    assert run_cli(sample.main, [*arguments, "--trajectory", str(tmp_path / "codes.gif")]) == 0
    with Image.open(tmp_path / "codes.gif") as film:
        frames = []
        for index in range(film.n_frames):
            film.seek(index)
            frames.append(np.asarray(film.convert("L")).astype(int))
    assert len(frames) == 6  # all masked, then every step
    assert frames[0].shape == (66, 66)
    assert (frames[0][:32, :32] == 128).all()
    final = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    assert np.abs(frames[-1] - final).max() <= 3
    assert np.abs(frames[0] - final).max() > 3


@pytest.mark.parametrize("kind", ["sliding", "rotary"])
def test_a_size_beyond_the_models(tiny_run, tmp_path, kind):
    out = tmp_path / "grid.png"
    arguments = ["grid", "--model", str(tiny_run), "--n", "1", "--steps", "2", "--size", "42x64", "--out", str(out)]
    assert run_cli(sample.main, [*arguments, "--large-grids", kind]) == 0
    assert Image.open(out).size == (64, 42)
