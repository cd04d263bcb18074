"""The comparison of quantizer kinds: which commands it runs, and its report."""

import json
from pathlib import Path

import pytest

from benchmarks import quantizers
from common.errors import UserError, run_cli


@pytest.fixture
def commands(monkeypatch):
    """The commands, of which each writes what it would write."""
    run = []

    def fake(command):
        run.append(command)
        if command[0] == "train.py":
            folder = next(Path(a.partition("=")[2]) for a in command if a.startswith("output_dir="))
            (folder / "tokenizer").mkdir(parents=True)
            (folder / "tokenizer/config.json").touch()
        else:
            scores = {"psnr_db": 20.0, "ssim": 0.5, "codes_used": 1.0, "perplexity": 9.0, "more": 0}
            report = {"reconstruction": scores | {"frechet": {"frechet_distance": 30.0}}}
            Path(command[command.index("--out") + 1]).write_text(json.dumps(report))
        return 1.5

    monkeypatch.setattr(quantizers, "run", fake)
    return run


def test_each_kind_is_trained_once(commands, tmp_path, capsys):
    (tmp_path / "data/val").mkdir(parents=True)
    arguments = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    arguments += ["--kinds", "lfq", "fsq 8 8 4 4"]
    assert run_cli(quantizers.main, arguments) == 0
    assert [command[0] for command in commands] == ["train.py", "evaluate.py"] * 2
    assert "tokenizer.quantizer.kind=fsq" in commands[2] and "tokenizer.quantizer.levels=[8,8,4,4]" in commands[2]
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["kind"], row["frechet"], row["seconds"]) for row in rows] == [
        ("lfq", 30, 1.5),
        ("fsq 8 8 4 4", 30, 1.5),
    ]
    assert capsys.readouterr().out == (tmp_path / "out.md").read_text()
    assert "| lfq | 20.00 | 0.500 | 30 | 1.000 | 9 |" in (tmp_path / "out.md").read_text()
    assert run_cli(quantizers.main, arguments) == 0
    assert [command[0] for command in commands[4:]] == ["evaluate.py"] * 2


def test_folder_without_validation_images(tmp_path, capsys):
    assert run_cli(quantizers.main, ["--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} has no val/: give --data a folder with train/ and val/\n"


def test_error_of_a_command_is_passed_on():
    with pytest.raises(UserError, match=r"sys\.exit.*: error: damaged"):
        quantizers.run(["-c", "import sys; print('note', file=sys.stderr); sys.exit('error: damaged')"])
