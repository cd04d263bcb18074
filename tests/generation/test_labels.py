"""Labels on the command line: the defaults, the words, what is printed and what is recorded."""

import json

import numpy as np
import pytest
from PIL import Image

import sample
from common.errors import run_cli
from common.model_dir import read_model, save_model
from diffusion.pipeline import ImageGenerator

EDITING = {
    "inpaint": ["--box", "4,4,28,28"],
    "outpaint": ["--right", "16"],
    "vary": [],
    "morph": ["--n", "3"],
}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)).save(path)
    return path


@pytest.fixture
def run(image, tmp_path):
    """A function that runs a command, and gives the PNG that it writes."""

    def run(command, model, *flags):
        more = [] if command == "grid" else ["--image", str(image), *EDITING[command]]
        more += ["--other", str(image)] if command == "morph" else []
        arguments = [command, "--model", str(model), "--out", str(tmp_path / "out.png"), "--steps", "3", *more, *flags]
        assert run_cli(sample.main, arguments) == 0
        return Image.open(tmp_path / "out.png")

    return run


@pytest.mark.parametrize("command", EDITING)
def test_without_a_label_an_edited_image_has_no_class(run, lively_run, command):
    plain = run(command, lively_run)
    assert plain.text["label"] == "none"
    assert np.array_equal(plain, run(command, lively_run, "--label", "none"))
    assert not np.array_equal(plain, run(command, lively_run, "--label", "3"))


@pytest.mark.parametrize("command", EDITING)
def test_without_label_dropout_it_has_a_random_class_and_says_which(run, uniform_run, capfd, command):
    made = run(command, uniform_run, "--sampler", "tweedie")
    notes = [line for line in capfd.readouterr().err.splitlines() if "label dropout" in line]
    assert len(notes) == 1
    generator = ImageGenerator.from_pretrained(uniform_run, "cpu")
    label = int(generator.sample_codes(1, None, seed=0).labels)
    assert f"were taken: {label};" in notes[0]
    assert made.text["label"] == "random"
    assert np.array_equal(made, run(command, uniform_run, "--sampler", "tweedie", "--label", "random"))


def test_random_is_another_class_for_each_variant_and_recorded(run, lively_run, tmp_path):
    folder = tmp_path / "each"
    run("vary", lively_run, "--label", "random", "--n", "6", "--images-dir", str(folder))
    labels = [Image.open(folder / f"{i:06d}.png").text["label"] for i in range(6)]
    assert len(set(labels)) > 1
    codes = ImageGenerator.from_pretrained(lively_run, "cpu").sample_codes(6, "random", seed=0)
    assert labels == [str(label) for label in codes.labels.tolist()]


def test_grid_takes_the_words_and_stays_random_without_them(run, lively_run, tmp_path):
    assert run("grid", lively_run, "--n", "3").text["label"] == "random"
    folder = tmp_path / "each"
    made = run("grid", lively_run, "--n", "4", "--label", "3", "none", "--images-dir", str(folder))
    assert made.text["label"] == "3, none"
    assert json.loads((folder / "settings.json").read_text())["label"] == "3, none"
    assert [Image.open(folder / f"{i:06d}.png").text["label"] for i in range(4)] == ["3", "none", "3", "none"]
    assert made.size == (2 * 34 - 2, 2 * 34 - 2)  # one column a label


def test_a_class_called_none_wins_over_the_word_and_a_note_says_so(run, lively_run, tmp_path, capfd):
    config, state = read_model(lively_run / "prior")
    config["class_names"] = ["none", *config["class_names"][1:]]
    save_model(tmp_path / "named/prior", state, config)
    (tmp_path / "named/tokenizer").symlink_to(lively_run / "tokenizer")
    named = run("grid", tmp_path / "named", "--n", "2", "--label", "none")
    assert "note: --label none is the class of that name" in capfd.readouterr().err
    assert np.array_equal(named, run("grid", lively_run, "--n", "2", "--label", "0"))


def test_guidance_without_a_class_is_off_and_a_note_says_so(run, lively_run, capfd):
    plain = run("vary", lively_run)
    capfd.readouterr()
    assert np.array_equal(plain, run("vary", lively_run, "--guidance", "4"))
    assert "note: guidance acts towards a class" in capfd.readouterr().err


def test_on_the_uniform_graph_editing_corrects_unless_a_sampler_is_asked_for(run, uniform_run, capfd):
    for command in ("inpaint", "outpaint"):
        capfd.readouterr()
        made = run(command, uniform_run)
        assert made.text["sampler"] == "predictor_corrector"
        assert made.text["sampler_options"] == "{'corrections': 12, 'churn': 1.0}"
        said = capfd.readouterr().err
        assert "sampling: predictor_corrector, corrections 12, churn 1.0, 3 steps" in said
        assert f"note: on the uniform graph {command} uses predictor_corrector" in said
        fewer = run(command, uniform_run, "--option", "corrections=2")
        assert fewer.text["sampler_options"] == "{'corrections': 2, 'churn': 1.0}"
        assert run(command, uniform_run, "--sampler", "tweedie").text["sampler"] == "tweedie"
    capfd.readouterr()
    assert run("vary", uniform_run).text["sampler"] == "tweedie"
    assert "note: on the uniform" not in capfd.readouterr().err
