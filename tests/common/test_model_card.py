import re
import shlex
from pathlib import Path

import pytest

import sample
from common.errors import run_cli
from common.model_card import model_card, write_model_card


@pytest.mark.parametrize("key", ["validation", "held_out"])  # the second: models of an older version
def test_model_card_tells_scores(key):
    card = model_card(Path("mine"), {"prior": {"width": 8, key: {"bits_per_code": 2.5}, "data_key": "secret"}})
    assert card.startswith("---\nlibrary_name: smalti\n") and "| width | 8 |" in card
    assert "| bits_per_code | 2.5 |" in card
    assert "secret" not in card
    assert f"| {key} |" not in card


@pytest.mark.parametrize("place", ["runs/my pics", "../elsewhere"])
def test_the_command_of_a_card_runs(place, tiny_run, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    directory = Path(place)
    directory.mkdir(parents=True)
    for part in ("tokenizer", "prior"):
        (directory / part).symlink_to(tiny_run / part)
    write_model_card(directory)
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert f"# {directory.resolve().name}\n" in card
    command = re.findall("^    python sample.py (.*)$", card, flags=re.MULTILINE)
    assert len(command) == 1
    assert run_cli(sample.main, [*shlex.split(command[0]), "--n", "1"]) == 0
    assert (here / "grid.png").is_file()
