"""Damaged and hostile image files: no command breaks a rule, and the benchmark sees a broken rule."""

import pytest

from benchmarks import hostile
from benchmarks.hostile_files import CONTENTS, KINDS, write_hostile_file
from common.errors import run_cli

STEP = 37  # files 0, 37, 74, ... take every kind and every command in turn


def test_commands_and_page_follow_the_rules(tiny_run, monkeypatch):
    monkeypatch.setattr(hostile, "LIMIT_S", 60.0)  # the limit is for a machine without other work
    numbers = [index for index in range(0, 24 * STEP, STEP) if KINDS[index % len(KINDS)] != "bomb"]
    found = list(hostile.attack(str(tiny_run), numbers))
    assert [broken for _, _, broken in found if broken] == []
    assert {outcome.code for _, outcome, _ in found} == {0, 2}
    assert all(0 < outcome.peak_bytes < hostile.LIMIT_BYTES for _, outcome, _ in found)


def test_numbers_give_every_kind_and_every_command(tmp_path):
    numbers = range(0, 24 * STEP, STEP)
    commands = [hostile.command_for(index, "model", tmp_path, tmp_path) for index in numbers]
    assert {command[0] for command in commands} == {"inpaint", "outpaint", "vary", "reconstruct", "morph", "page"}
    assert any("--mask" in command for command in commands)
    assert {KINDS[index % len(KINDS)] for index in numbers} == set(KINDS)


@pytest.mark.parametrize("index", range(len(CONTENTS)))
def test_the_same_number_gives_the_same_file(index, tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    (kind, first), (_, second) = (write_hostile_file(folder, index) for folder in folders)
    assert kind == KINDS[index] and first.read_bytes() == second.read_bytes()


GOOD = hostile.Outcome(0, 0.1, 1, "")


@pytest.mark.parametrize(
    ("outcome", "files", "broken"),
    [
        (GOOD, ["out.png"], ""),
        (hostile.Outcome(2, 0.1, 1, "note: small\nerror: damaged\n"), [], ""),
        (hostile.Outcome(2, 0.1, 1, "error: damaged\nerror: again\n"), [], "exit code 2"),
        (hostile.Outcome(2, 0.1, 1, ""), [], "exit code 2"),
        (hostile.Outcome(1, 0.1, 1, "Traceback"), [], "exit code 1: Traceback"),
        (hostile.Outcome(None, 60.0, 0, ""), [], "exit code None"),
        (hostile.Outcome(0, 6.0, 1, ""), ["out.png"], "6.0 s"),
        (hostile.Outcome(0, 0.1, 3 << 30, ""), ["out.png"], "3.00 GiB"),
        (GOOD, [], "wrote no image"),
        (GOOD, ["out.png", ".out.png.partial"], "left a partial file"),
        (hostile.Outcome(2, 0.1, 1, "error: damaged\n"), ["out.png"], "wrote an image in spite of an error"),
    ],
)
def test_broken_rules(outcome, files, broken, tmp_path):
    for name in files:
        (tmp_path / name).touch()
    found = hostile.broken_rule(outcome, writes=True, folder=tmp_path)
    assert found.startswith(broken) and bool(found) == bool(broken)


def test_exit_code_of_the_benchmark(monkeypatch, capsys):
    monkeypatch.setattr(hostile, "attack", lambda model, numbers: [("thin", GOOD, ""), ("bomb", GOOD, "1: 9.0 s")])
    with pytest.raises(SystemExit) as end:
        run_cli(hostile.main, ["--model", "x", "--n", "2"])
    assert end.value.code == 1
    assert "{'image': 1, 'broken': 1}" in capsys.readouterr().out
