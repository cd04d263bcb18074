"""DIR/prior/generation.json: a model's own sampling options, from the command line and from Python."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import sample
from common.errors import run_cli
from diffusion.pipeline import ImageGenerator
from diffusion.settings import SamplingSettings

OWN = {"sampler": "maskgit", "sampler_options": {"choice_temperature": 1.0}, "num_inference_steps": 3}
OWN_FLAGS = ["--sampler", "maskgit", "--option", "choice_temperature=1.0", "--steps", "3"]


def with_generation(model, folder, text):
    """A copy of `model` in `folder` whose generation.json is `text`."""
    shutil.copytree(model / "prior", folder / "prior")
    (folder / "tokenizer").symlink_to(model / "tokenizer")
    (folder / "prior/generation.json").write_text(text)
    return folder


@pytest.fixture(scope="module")
def own_run(lively_run, tmp_path_factory):
    return with_generation(lively_run, tmp_path_factory.mktemp("runs") / "own", json.dumps(OWN))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two images to edit, as arguments of the editing commands."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in ("in", "other"):
        Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(folder / f"{name}.png")
    return folder


def run(command, model, images, out, flags=()):
    """The PNG that `command` writes."""
    more = {
        "grid": ["--n", "2"],
        "inpaint": ["--image", f"{images}/in.png", "--box", "4,4,28,28"],
        "outpaint": ["--image", f"{images}/in.png", "--right", "16"],
        "vary": ["--image", f"{images}/in.png"],
        "morph": ["--image", f"{images}/in.png", "--other", f"{images}/other.png", "--n", "4"],
    }
    arguments = [command, "--model", str(model), "--label", "1", "--out", str(out), *more[command], *flags]
    assert run_cli(sample.main, arguments) == 0
    return Image.open(out)


@pytest.mark.parametrize("command", ["grid", "inpaint", "outpaint", "vary", "morph"])
def test_the_plain_command_equals_the_explicit_one(own_run, lively_run, images, tmp_path, command):
    plain = run(command, own_run, images, tmp_path / "plain.png")
    explicit = run(command, lively_run, images, tmp_path / "explicit.png", OWN_FLAGS)
    without = run(command, lively_run, images, tmp_path / "without.png")
    assert np.array_equal(plain, explicit)
    assert not np.array_equal(plain, without)
    assert plain.text["sampler"] == "maskgit"
    assert plain.text["num_inference_steps"] == "3"


@pytest.mark.parametrize(("flags", "changed"), [
    (["--steps", "2"], {"num_inference_steps": 2}),
    (["--temperature", "0.5"], {"temperature": 0.5}),
    (["--option", "choice_temperature=9"], {"sampler_options": {"choice_temperature": 9.0}}),
    (["--sampler", "maskgit"], {}),
    (["--sampler", "halton"], {"sampler": "halton", "sampler_options": {}}),
])  # fmt: skip
def test_explicit_options_override_the_models_own(own_run, images, tmp_path, flags, changed):
    made = run("grid", own_run, images, tmp_path / "out.png", flags)
    wanted = SamplingSettings(**{**OWN, **changed}).metadata()
    assert {name: made.text[name] for name in wanted} == wanted


def test_defaults_in_python(own_run, lively_run):
    own, other = (ImageGenerator.from_pretrained(model, "cpu") for model in (own_run, lively_run))
    assert own.defaults == SamplingSettings(**OWN)
    assert own.settings(num_inference_steps=2) == SamplingSettings(**{**OWN, "num_inference_steps": 2})
    assert own.settings(sampler="halton").sampler_options == {}
    assert np.array_equal(own.generate(1, 1)[0], other.generate(1, 1, **OWN)[0])


def test_a_whole_settings_object_replaces_the_models_own(own_run, lively_run):
    own, other = (ImageGenerator.from_pretrained(model, "cpu") for model in (own_run, lively_run))
    plain = SamplingSettings(num_inference_steps=2)
    assert np.array_equal(own.generate(1, 1, settings=plain)[0], other.generate(1, 1, settings=plain)[0])
    assert own.settings(plain, temperature=0.5) == plain.updated({"temperature": 0.5})


DAMAGED = {
    "not JSON": ("{", "damaged"),
    "not an object": ("[]", "not an object"),
    "an unknown option": ('{"num_steps": 3}', "nearest one is 'num_inference_steps'"),
    "a wrong type": ('{"num_inference_steps": "many"}', "whole number"),
    "out of range": ('{"top_p": 2}', "at most 1"),
    "an unknown sampler": ('{"sampler": "magic"}', "unknown sampler 'magic'"),
    "an option of another sampler": ('{"sampler_options": {"eta": 1}}', "no option 'eta'"),
    "a text for a number": (
        '{"sampler": "maskgit", "sampler_options": {"choice_temperature": "hot"}}',
        "must be a decimal number",
    ),
}


@pytest.mark.parametrize(("text", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_generation_json_is_one_line(lively_run, tmp_path, capfd, text, message):
    model = with_generation(lively_run, tmp_path / "damaged", text)
    assert run_cli(sample.main, ["grid", "--model", str(model), "--n", "1", "--out", str(tmp_path / "out.png")]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert message in lines[0]
    assert f"{model}/prior" in lines[0]
    assert "generation" in lines[0]
    assert not (tmp_path / "out.png").exists()


def test_samplers_lists_a_models_defaults(own_run, capsys):
    assert run_cli(sample.main, ["samplers", "--model", str(own_run)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["--sampler", "maskgit"] in lines
    assert ["--steps", "3"] in lines
    assert ["--temperature", "1"] in lines
    assert ["--option", "choice_temperature=1.0"] in lines


def test_samplers_of_a_model_are_those_that_fit_its_graph(uniform_run, own_run, capsys):
    listed = []
    for model in (uniform_run, own_run):
        assert run_cli(sample.main, ["samplers", "--model", str(model)]) == 0
        listed.append({line.split()[0] for line in capsys.readouterr().out.splitlines()})
    assert {"tweedie", "euler"} <= listed[0]
    assert not listed[0] & {"maskgit", "halton"}
    assert {"tweedie", "maskgit", "halton"} <= listed[1]


def test_samplers_of_a_missing_model_is_one_line(capfd):
    assert run_cli(sample.main, ["samplers", "--model", "nowhere"]) == 2
    assert capfd.readouterr().err.startswith("error: no model directory nowhere")
