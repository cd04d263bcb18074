"""Hostile inputs: the benchmark gives every kind to every program, in processes of their own, and sees a broken rule."""

from random import Random

import pytest

from benchmarks import hostile
from benchmarks.hostile_arguments import commands, hostile_command
from benchmarks.hostile_case import Case, Outcome, broken_rule, snapshot
from benchmarks.hostile_files import CONTENTS, KINDS, write_hostile_file
from benchmarks.hostile_models import faults, hostile_model
from common.errors import run_cli

STEP = 37  # files 0, 37, 74, ... take every kind and every command in turn


def test_commands_and_page_follow_the_rules_with_damaged_images(tiny_run):
    numbers = [index for index in range(0, 24 * STEP, STEP) if KINDS[index % len(KINDS)] != "bomb"]
    found = list(hostile.attack(tiny_run, numbers, ["images"], patience=12))
    assert [broken for _, _, broken in found if broken] == []
    assert {outcome.code for _, outcome, _ in found} == {0, 2}
    assert all(0 < outcome.peak_bytes < 2 << 30 for _, outcome, _ in found)


def test_kinds_are_attacked_in_turn(tiny_run, monkeypatch):
    ran = []
    monkeypatch.setattr(
        hostile, "run_in_process", lambda case, stderr: ran.append(case) or Outcome(2, 0.1, 1, "error: no\n")
    )
    found = list(hostile.attack(tiny_run, range(12), list(hostile.MAKERS)))
    assert [kind for kind, _, _ in found] == 2 * list(hostile.MAKERS)
    assert {case.program for case in ran} >= {"sample.py", "configuration", "labels"}


def test_numbers_give_every_kind_and_every_command(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(hostile, "write_hostile_file", lambda folder, index: ("kind", folder / "x.png"))
    cases = []
    for index in range(0, 24 * STEP, STEP):
        folder = tmp_path / str(index)
        folder.mkdir()
        cases.append(hostile.hostile_image(index, tiny_run, folder))
    commands = {case.arguments[0] for case in cases if case.program == "sample.py"}
    assert commands == {"inpaint", "outpaint", "vary", "reconstruct", "morph"}
    assert any(case.program == "page" for case in cases)
    assert any("--mask" in case.arguments for case in cases)
    assert {KINDS[index % len(KINDS)] for index in range(0, 24 * STEP, STEP)} == set(KINDS)


@pytest.mark.parametrize("index", range(len(CONTENTS)))
def test_the_same_number_gives_the_same_file(index, tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    (kind, first), (_, second) = (write_hostile_file(folder, index) for folder in folders)
    assert kind == KINDS[index] and first.read_bytes() == second.read_bytes()


def test_model_folders_have_every_fault_and_go_to_every_program(tiny_run, tmp_path):
    known = faults(tiny_run)
    places = {(fault.file, fault.name.split(":")[0]) for fault in known}
    assert {("tokenizer/config.json", "quantizer.levels"), ("prior/config.json", "parametrization")} <= places
    assert {("prior/generation.json", "temperature"), ("prior/model.safetensors", "weights")} <= places
    programs = set()
    for index in range(25):
        folder = tmp_path / str(index)
        folder.mkdir()
        case = hostile_model(index, tiny_run, folder)
        programs.add((case.program, *case.arguments[:1]) if case.program == "sample.py" else case.program)
    assert len(programs) == 7


def test_command_lines_take_every_command_and_option(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.hostile_arguments.prepare", lambda folder: None)
    seen = {}
    for number in range(200):
        case = hostile_command(Random(number), tmp_path, tmp_path)
        name = "evaluate" if case.program == "evaluate.py" else case.arguments[0]
        seen.setdefault(name, set()).update(case.arguments)
    assert seen.keys() == commands().keys()
    options = {action.option_strings[0] for _, parser in commands().values() for action in parser._actions
               if action.option_strings and action.dest != "help"}  # fmt: skip
    assert len(options - set.union(*seen.values())) <= len(options) // 10  # an option has several names


GOOD = Outcome(0, 0.1, 1, "")
ERROR = Outcome(2, 0.1, 1, "note: small\nerror: damaged\n")


@pytest.mark.parametrize(
    ("outcome", "files", "broken"),
    [
        (GOOD, ["out.png"], ""),
        (ERROR, [], ""),
        (Outcome(2, 0.1, 1, "error: damaged\nerror: again\n"), [], "exit code 2"),
        (Outcome(2, 0.1, 1, ""), [], "exit code 2"),
        (Outcome(1, 0.1, 1, "Traceback"), [], "exit code 1: Traceback"),
        (Outcome(None, 60.0, 0, ""), [], "exit code None"),
        (Outcome(2, 0.1, 1, "error: " + "x" * 9000), [], "an error of 9007 characters"),
        (Outcome(2, 0.1, 1, "error: \x1b[31m"), [], "control characters"),
        (Outcome(0, 6.0, 1, ""), ["out.png"], "6.0 s"),
        (Outcome(0, 0.1, 3 << 30, ""), ["out.png"], "3.00 GiB"),
        (GOOD, [], "wrote no file"),
        (GOOD, ["out.png", ".out.png.partial"], "left .out.png.partial"),
        (ERROR, ["out.png"], "wrote a file in spite of an error"),
        (GOOD, ["out.png", "in.png"], "changed its input"),
        (GOOD, ["out.png", "old.png"], ""),
    ],
)
def test_broken_rules(outcome, files, broken, tmp_path):
    for name in ("in.png", "old.png"):
        (tmp_path / name).write_text("before")
    before = snapshot(tmp_path)
    for name in files:
        (tmp_path / name).write_text("after")
    case = Case("", "sample.py", [], tmp_path / "out.png", replaceable=frozenset({tmp_path / "old.png"}))
    found = broken_rule(case, outcome, tmp_path, before)
    assert found.startswith(broken) and bool(found) == bool(broken)


def test_a_further_rule_is_for_what_ended_well(tmp_path):
    case = Case("", "sample.py", [], check=lambda: "3 kept pixels changed")
    assert broken_rule(case, GOOD, tmp_path, {}) == "3 kept pixels changed"
    assert broken_rule(case, ERROR, tmp_path, {}) == ""


def test_exit_code_and_summary_of_the_benchmark(monkeypatch, capsys):
    found = [("models", GOOD, ""), ("masks", GOOD, "--kinds masks --first 1: 9.0 s"), ("models", ERROR, "")]
    monkeypatch.setattr(hostile, "attack", lambda *args: iter(found))
    with pytest.raises(SystemExit) as end:
        run_cli(hostile.main, ["--model", "x", "--n", "3"])
    assert end.value.code == 1
    assert "3 inputs, 1 wrong: {'done': 1, 'wrong': 1, 'one line of error': 1}" in capsys.readouterr().out


def test_minutes_end_the_benchmark(monkeypatch, capsys):
    monkeypatch.setattr(hostile, "attack", lambda model, numbers, *args: (("models", GOOD, "") for _ in numbers))
    assert run_cli(hostile.main, ["--model", "x", "--minutes", "0.001"]) == 0
    assert " 0 wrong" in capsys.readouterr().out
