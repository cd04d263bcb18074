"""The sampling options: types, ranges and names are checked, and a field more is an option everywhere."""

import math
from argparse import Namespace
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from common.errors import UserError
from diffusion.pipeline import ImageGenerator
from diffusion.settings import SamplingSettings, given_settings, option, setting_fields
from generation.output import image_metadata
from sample import build_parser

GRID = ["grid", "--model", "runs/mnist"]


@dataclass(frozen=True)
class MoreSettings(SamplingSettings):
    """The settings of a project that adds options of its own."""

    sharpness: float = option(0.5, "how sharp", ["--sharpness"], low=0, high=1)
    palette: str = option("warm", "which colours", ["--palette"], choices=("warm", "cold"))
    mirrored: bool = option(False, "mirror every image", ["--mirrored"])


@pytest.mark.parametrize(("name", "value"), [
    ("num_inference_steps", 1), ("num_inference_steps", 100_000), ("guidance_scale", 0), ("guidance_scale", 7.5),
    ("temperature", 1e-3), ("top_p", 1), ("top_p", 0.01), ("guidance_interval", (0, 1)), ("guidance_interval", [0.5, 0.5]),
    ("skip_unchanged", False), ("time_spacing", "loglinear"), ("guidance_ramp", "power_cosine"), ("large_grids", "rotary"),
    ("sampler_options", {"eta": 0.5}),
])  # fmt: skip
def test_values_in_range_are_kept(name, value):
    kept = getattr(SamplingSettings(**{name: value}), name)
    assert kept == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(("name", "value", "message"), [
    ("num_inference_steps", 0, "steps must be at least 1 and at most 100000, got 0"),
    ("num_inference_steps", 100_001, "at most 100000"),
    ("num_inference_steps", 2.5, "steps must be a whole number, got 2.5"),
    ("num_inference_steps", "8", "steps must be a whole number, got '8'"),
    ("num_inference_steps", True, "whole number"),
    ("num_inference_steps", None, "whole number"),
    ("guidance_scale", -0.1, "guidance must be at least 0"),
    ("guidance_scale", math.inf, "guidance must be a number"),
    ("guidance_scale", 10**400, "guidance must be a number"),
    ("temperature", 0, "temperature must be above 0"),
    ("temperature", math.nan, "temperature must be a number"),
    ("top_p", 0, "top-p must be above 0 and at most 1"),
    ("top_p", 1.5, "at most 1"),
    ("guidance_interval", (0.6, 0.4), "two rising fractions"),
    ("guidance_interval", (0, 1.1), "two rising fractions"),
    ("guidance_interval", (0, math.nan), "two rising fractions"),
    ("guidance_interval", (0.1, 0.2, 0.3), "two rising fractions"),
    ("guidance_interval", 0.5, "two rising fractions"),
    ("guidance_interval", "01", "two rising fractions"),
    ("skip_unchanged", 1, "skip-unchanged must be true or false"),
    ("sampler", 3, "sampler must be a text"),
    ("time_spacing", "square", "unknown time-spacing 'square': known are uniform, cosine, loglinear"),
    ("guidance_ramp", "steep", "known are constant, linear, power_cosine"),
    ("large_grids", "magic", "known are sliding, rotary"),
    ("sampler_options", "eta=1", "option must be a mapping"),
])  # fmt: skip
def test_wrong_types_and_values_out_of_range_are_refused(name, value, message):
    with pytest.raises(UserError, match=message):
        SamplingSettings(**{name: value})


def test_numbers_get_the_type_of_their_field():
    settings = SamplingSettings(num_inference_steps=8.0, guidance_scale=2)
    assert type(settings.num_inference_steps) is int
    assert type(settings.guidance_scale) is float


@pytest.mark.parametrize(("name", "nearest"), [
    ("num_inference_step", "num_inference_steps"), ("guidance", "guidance_scale"), ("topp", "top_p"),
    ("temprature", "temperature"), ("sampler_option", "sampler_options"), ("steps", "num_inference_steps"),
    ("step_grid", "time_spacing"), ("skip", "skip_unchanged"),
])  # fmt: skip
def test_an_unknown_option_names_the_nearest(name, nearest):
    with pytest.raises(UserError, match=f"unknown sampling option '{name}': the nearest one is '{nearest}'"):
        SamplingSettings().updated({name: 3})


def test_an_update_leaves_the_other_options_and_the_old_settings_alone():
    old = SamplingSettings(num_inference_steps=3, temperature=0.5)
    new = old.updated({"temperature": 0.7})
    assert new == SamplingSettings(num_inference_steps=3, temperature=0.7)
    assert old.temperature == 0.5


@pytest.mark.parametrize(("update", "left"), [
    ({"sampler": "halton"}, {}), ({"sampler": "remdm"}, {"eta": 0.5}), ({"temperature": 0.5}, {"eta": 0.5}),
    ({"sampler": "maskgit", "sampler_options": {"choice_temperature": 1.0}}, {"choice_temperature": 1.0}),
])  # fmt: skip
def test_another_sampler_drops_the_options_of_the_old_one(update, left):
    settings = SamplingSettings(sampler="remdm", sampler_options={"eta": 0.5}).updated(update)
    assert settings.sampler_options == left


def test_settings_do_not_share_a_dictionary_with_the_caller():
    options = {"eta": 0.5}
    settings = SamplingSettings(sampler="remdm", sampler_options=options)
    options["eta"] = 0.9
    assert settings.sampler_options == {"eta": 0.5}
    assert SamplingSettings().sampler_options is not SamplingSettings().sampler_options


def test_metadata_tells_every_field():
    metadata = SamplingSettings(num_inference_steps=3, guidance_interval=(0.2, 0.8)).metadata()
    assert list(metadata) == [field.name for field in fields(SamplingSettings)]
    assert metadata["num_inference_steps"] == "3"
    assert metadata["guidance_interval"] == "(0.2, 0.8)"


def test_every_field_has_a_text_and_a_flag():
    listed = setting_fields(SamplingSettings)
    assert [field.name for field in listed] == [field.name for field in fields(SamplingSettings)]
    assert all(field.text for field in listed)
    assert all(flag.startswith("--") for field in listed for flag in field.flags)


@pytest.mark.parametrize(("flags", "given"), [
    ([], {}),
    (["--sharpness", "0.25"], {"sharpness": 0.25}),
    (["--palette", "cold", "--mirrored"], {"palette": "cold", "mirrored": True}),
    (["--no-mirrored", "--steps", "4"], {"mirrored": False, "num_inference_steps": 4}),
])  # fmt: skip
def test_a_field_more_is_a_flag_more(flags, given):
    args = build_parser(MoreSettings).parse_args([*GRID, *flags])
    assert given_settings(args, MoreSettings) == given


@pytest.mark.parametrize(("flag", "value", "message"), [
    ("--sharpness", "2", "sharpness must be at least 0 and at most 1"),
    ("--palette", "grey", "known are warm, cold"),
])  # fmt: skip
def test_a_field_more_is_checked_on_the_command_line(flag, value, message):
    args = build_parser(MoreSettings).parse_args([*GRID, flag, value])
    with pytest.raises(UserError, match=message):
        given_settings(args, MoreSettings)


def test_a_field_more_is_shown_in_the_help(capsys):
    with pytest.raises(SystemExit):
        build_parser(MoreSettings).parse_args(["grid", "--help"])
    shown = capsys.readouterr().out
    assert "--sharpness" in shown
    assert "how sharp" in shown


def test_a_field_more_is_a_keyword_more(generator):
    """The tests' model with settings of a subclass; only the tokenizer and the prior are taken from `generator`."""
    own = ImageGenerator(generator.tokenizer, generator.prior, defaults=MoreSettings(num_inference_steps=2))
    assert own.settings(sharpness=0.9) == MoreSettings(num_inference_steps=2, sharpness=0.9)
    assert own.request(1, [0], "pil", {"palette": "cold"}).settings.palette == "cold"
    assert len(own.generate(1, sharpness=0.1)) == 1
    with pytest.raises(UserError, match="sharpness must be at least 0"):
        own.generate(1, sharpness=-1)
    with pytest.raises(UserError, match="nearest one is 'sharpness'"):
        own.generate(1, sharpnes=1)
    with pytest.raises(UserError, match="generate has no keyword 'sharpness'"):
        generator.generate(1, sharpness=0.1)


def test_a_field_more_stands_in_the_metadata_of_images():
    args = Namespace(model=Path("runs/mnist"), command="grid", seed=3)
    about = image_metadata(args, MoreSettings(sharpness=0.9, mirrored=True), "cat")
    assert about["sharpness"] == "0.9"
    assert about["mirrored"] == "True"
    assert about["seed"] == "3"
    assert about["label"] == "cat"
