"""Exit codes and what is printed: after mistakes, and after Ctrl-C."""

import logging

import pytest

import evaluate
import sample
import train
from common import export
from common.errors import ArgumentParser, Interrupted, UserError, printable, run_cli
from generation.commands import COMMANDS
from training.run import STAGES


def raising(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (UserError("no file x:\n  give one"), 2, "error: no file x: give one\n"),
        (FileNotFoundError(2, "No such file", "x.png"), 2, "error: cannot use x.png: No such file; choose another path\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (Interrupted("the same command continues"), 130, "stopped; the same command continues\n"),
    ],
)  # fmt: skip
def test_what_ends_a_command_is_one_line_and_an_exit_code(error, code, printed, capsys):
    assert run_cli(raising(error), []) == code
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize("error", [OSError("no file"), ValueError("a bug")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run_cli(raising(error), [])


def test_a_command_that_ends_well(capsys):
    given = []
    assert run_cli(given.extend, ["a", "b"]) == 0
    assert given == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_a_wrong_argument_is_one_line(capsys):
    parser = ArgumentParser(prog="x.py")
    parser.add_argument("--n", type=int)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--n", "many"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: argument --n: invalid int value: 'many' (see 'x.py --help')\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.png", "a.png"),
        ("\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
        ("line\nline\r\ttab\x7f\x9b31m\u2028", "line\\nline\\r\\ttab\\x7f\\x9b31m\\u2028"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("caf\udce9 \ud800", "caf\\xe9 \\ud800"),
        ("Größe 猫 👩\u200d🔬", "Größe 猫 👩\u200d🔬"),
        (3, "3"),
    ],
)
def test_printable_text_shows_what_a_terminal_would_execute(text, shown):
    assert printable(text) == shown


HOSTILE = "a\x1b[2J\udcff\u202e"
HARMLESS = "a\\x1b[2J\\xff\\u202e"


@pytest.mark.parametrize(
    "error", [UserError(f"no {HOSTILE}"), FileNotFoundError(2, "missing", HOSTILE), Interrupted(f"see {HOSTILE}")]
)
def test_whatever_ends_a_command_is_printable(error, capsys):
    run_cli(raising(error), [])
    printed = capsys.readouterr().err
    assert HARMLESS in printed and printed.removesuffix("\n").isprintable()


def test_arguments_and_log_messages_are_printable(capsys):
    with pytest.raises(SystemExit):
        ArgumentParser(prog="x.py").parse_args([HOSTILE])
    assert capsys.readouterr().err == f"error: unrecognized arguments: {HARMLESS} (see 'x.py --help')\n"
    run_cli(lambda _: None, [])
    record = logging.LogRecord("smalti", logging.WARNING, __file__, 1, "skipped %s", (HOSTILE,), None)
    assert logging.lastResort.format(record) == f"skipped {HARMLESS}"


@pytest.mark.parametrize(
    ("program", "arguments", "problem"),
    [
        # argparse alone reads a part of a name as the name: the images of --images 7 went into the folder 7
        (sample, "grid --model DIR --out a.png --images 7", "unknown option --images: the nearest one is --images-dir"),
        (sample, "grid --model DIR --out a.png --images=7", "unknown option --images: the nearest one is --images-dir"),
        (sample, "grid --mod DIR --out a.png", "unknown option --mod: the nearest one is --model"),
        (sample, "inpaint --model DIR --out a.png --imag a.png", "unknown option --imag: the nearest one is --image"),
        (sample, "grid --model DIR --guidence 3", "unknown option --guidence: the nearest one is --guidance"),
        (sample, "grid --model DIR -n 3", "unknown option -n: the nearest one is --n"),
        (sample, "gird --model DIR", "the nearest one is 'grid' (see 'sample.py --help')"),
        (evaluate, "--model DIR --ref mnist5k --out r.json", "unknown option --ref: the nearest one is --reference"),
        (train, "prior --conf a.yaml", "unknown option --conf: the nearest one is --config (see 'train.py --help')"),
        (train, "pior --config a.yaml", "the nearest one is 'prior'"),
        (export, "--halp", "unknown option --halp: the nearest one is --help"),
    ],
)
def test_an_abbreviated_or_unknown_option_or_command_names_the_nearest(program, arguments, problem, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(arguments.split())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_negative_numbers_and_what_follows_two_dashes_are_no_options():
    parser = ArgumentParser()
    parser.add_argument("--strength", type=float)
    parser.add_argument("words", nargs="*")
    known = parser.parse_args(["--strength", "-0.5", "-1", "--", "--words"])
    assert (known.strength, known.words) == (-0.5, ["-1", "--words"])


def interrupt(*_, **__):
    raise KeyboardInterrupt


GRID = ["grid", "--model", "DIR", "--out", "grid.png"]
VARY = ["vary", "--model", "DIR", "--image", "a.png", "--out", "b.png"]


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (GRID, "stopped\n"),
        ([*GRID, "--images-dir", "all"], "stopped; the same command continues with the missing images\n"),
        ([*VARY, "--images-dir", "all"], "stopped\n"),  # starts again
        (["samplers"], "stopped\n"),
    ],
)
def test_after_ctrl_c_only_a_folder_of_samples_continues(arguments, printed, monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, arguments[0], interrupt)
    assert run_cli(sample.main, arguments) == 130
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize("stage", STAGES)
def test_after_ctrl_c_a_stage_without_a_checkpoint_promises_nothing(stage, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(STAGES, stage, interrupt)
    assert run_cli(train.main, [stage, "--config", "configs/mnist.yaml", f"output_dir={tmp_path}"]) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    ("program", "function", "arguments"),
    [
        (
            evaluate,
            "evaluation.folder.evaluate_folder",
            ["--images", "DIR", "--reference", "mnist5k", "--out", "r.json"],
        ),
        (export, "common.half_precision.copy_in_half_precision", ["DIR", "COPY"]),
    ],
)
def test_after_ctrl_c_other_commands_promise_nothing(program, function, arguments, monkeypatch, capsys):
    monkeypatch.setattr(function, interrupt)
    assert run_cli(program.main, arguments) == 130
    assert capsys.readouterr().err == "stopped\n"
