"""Exit codes and what is printed: after mistakes, and after Ctrl-C."""

import pytest

import evaluate
import sample
import train
from common import export
from common.errors import ArgumentParser, Interrupted, UserError, run_cli


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


GRID = ["grid", "--model", "DIR", "--out", "grid.png"]


@pytest.mark.parametrize(
    ("program", "interrupted", "arguments", "said"),
    [
        (sample, "generation.commands.COMMANDS.grid", GRID, "stopped"),
        (sample, "generation.commands.COMMANDS.grid", [*GRID, "--images-dir", "all"],
         "stopped; the same command continues with the missing images"),
        (sample, "generation.commands.COMMANDS.vary",
         ["vary", "--model", "DIR", "--image", "a.png", "--out", "b.png", "--images-dir", "all"], "stopped"),
        (sample, "generation.commands.COMMANDS.samplers", ["samplers"], "stopped"),
        (evaluate, "evaluation.run.evaluate", ["--model", "DIR", "--reference", "mnist5k", "--out", "r.json"], "stopped"),
        (export, "common.half_precision.copy_in_half_precision", ["DIR", "COPY"], "stopped"),
        (train, "training.run.STAGES.encode", ["encode", "--config", "configs/mnist.yaml"], "stopped"),
        (train, "training.run.STAGES.prior", ["prior", "--config", "configs/mnist.yaml"], "stopped"),
    ],
)  # fmt: skip
def test_ctrl_c_promises_only_what_is_true(program, interrupted, arguments, said, monkeypatch, tmp_path, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    where, name = interrupted.rsplit(".", 1)
    if where.rsplit(".", 1)[1].isupper():  # a table of functions
        module, table = where.rsplit(".", 1)
        monkeypatch.setitem(getattr(pytest.importorskip(module), table), name, interrupt)
    else:
        monkeypatch.setattr(interrupted, interrupt)
    if program is train:
        arguments = [*arguments, f"output_dir={tmp_path}"]
    assert run_cli(program.main, arguments) == 130
    assert capsys.readouterr().err == f"{said}\n"
