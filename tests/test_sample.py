"""The command line of sample.py, parsed and not run."""

import subprocess
import sys

import pytest

import sample
from common.errors import UserError
from diffusion.settings import SamplingSettings, given_settings, setting_fields

MODEL = ["--model", "runs/mnist"]
EDITING = [*MODEL, "--image", "in.png", "--out", "out.png"]
SAMPLING_COMMANDS = {
    "grid": MODEL,
    "inpaint": EDITING,
    "outpaint": EDITING,
    "vary": EDITING,
    "morph": [*EDITING, "--other", "b.png"],
}


def parsed(*arguments):
    return sample.build_parser().parse_args(arguments)


@pytest.mark.parametrize("command", SAMPLING_COMMANDS)
def test_an_option_that_is_not_given_leaves_no_trace(command):
    args = parsed(command, *SAMPLING_COMMANDS[command])
    assert given_settings(args) == {}
    assert args.seed == 0
    assert args.label is None


FLAGS = {
    "num_inference_steps": (["--steps", "3"], 3),
    "sampler": (["--sampler", "halton"], "halton"),
    "sampler_options": (["--option", "eta=0.5", "--option", "cap=1"], {"eta": "0.5", "cap": "1"}),
    "guidance_scale": (["--guidance", "2"], 2.0),
    "guidance_ramp": (["--guidance-ramp", "linear"], "linear"),
    "guidance_interval": (["--guidance-interval", "0.2", "0.8"], (0.2, 0.8)),
    "temperature": (["--temperature", "0.5"], 0.5),
    "top_p": (["--top-p", "0.9"], 0.9),
    "time_spacing": (["--time-spacing", "cosine"], "cosine"),
    "skip_unchanged": (["--no-skip-unchanged"], False),
    "large_grids": (["--large-grids", "rotary"], "rotary"),
}


def test_every_setting_has_a_case_here():
    assert list(FLAGS) == [field.name for field in setting_fields(SamplingSettings)]


@pytest.mark.parametrize("command", SAMPLING_COMMANDS)
@pytest.mark.parametrize("name", FLAGS)
def test_every_setting_is_a_flag_of_every_command_that_samples(command, name):
    flags, value = FLAGS[name]
    assert given_settings(parsed(command, *SAMPLING_COMMANDS[command], *flags)) == {name: value}


@pytest.mark.parametrize(("old", "new"), [
    (["--step-grid", "cosine"], ["--time-spacing", "cosine"]),
    (["--guidance-scale", "3"], ["--guidance", "3"]),
    (["--num-images", "5"], ["--n", "5"]),
    (["--pictures", "5"], ["--n", "5"]),
])  # fmt: skip
def test_two_names_of_one_flag(old, new):
    assert parsed("grid", *MODEL, *old) == parsed("grid", *MODEL, *new)


def test_values_of_grid():
    args = parsed("grid", *MODEL, "--label", "3", "seven", "--size", "96X128")
    assert args.label == ["3", "seven"]
    assert args.size == (96, 128)
    assert args.n == 64


def test_boxes_add_up():
    args = parsed("inpaint", *EDITING, "--box", "1,2,3,4", "--box", "5, 6,7,8")
    assert args.box == [(1, 2, 3, 4), (5, 6, 7, 8)]


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "command"),
    (["paint"], "invalid choice"),
    (["grid"], "--model"),
    (["grid", *MODEL, "--size", "64"], "HEIGHTxWIDTH"),
    (["grid", *MODEL, "--size", "axb"], "HEIGHTxWIDTH"),
    (["grid", *MODEL, "--steps", "many"], "--steps"),
    (["grid", *MODEL, "--option", "eta"], "name=value"),
    (["grid", *MODEL, "--option", "=1"], "name=value"),
    (["grid", *MODEL, "--guidance-interval", "0.1"], "--guidance-interval"),
    (["grid", *MODEL, "--magic"], "--magic"),
    (["inpaint", *EDITING, "--box", "1,2,3"], "left,top,right,bottom"),
    (["inpaint", *EDITING, "--box", "a,b,c,d"], "left,top,right,bottom"),
    (["outpaint", *EDITING, "--left", "x"], "--left"),
    (["inpaint", *MODEL, "--out", "out.png"], "--image"),
    (["morph", *EDITING], "--other"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parsed(*arguments)
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert len(lines) == 1, lines
    assert message in lines[0]


def test_a_negative_seed_is_refused():
    with pytest.raises(UserError, match="--seed must not be negative, got -1"):
        sample.main(["grid", *MODEL, "--seed", "-1"])


def test_help_of_every_command_needs_no_torch():
    commands = ["", *SAMPLING_COMMANDS, "reconstruct", "app", "samplers"]
    code = (
        "import sys, sample\n"
        f"for command in {commands!r}:\n"
        "    try:\n"
        "        sample.main([*command.split(), '--help'])\n"
        "    except SystemExit as stop:\n"
        "        assert stop.code == 0, command\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--steps" in done.stdout
