"""The speed comparison with diffusers' VQModel."""

import json
import math
import sys

import pytest
import torch

from benchmarks import tokenizer
from common.errors import run_cli

TINY = ["--sizes", "16", "--width", "32", "--device", "cpu"]


def test_report(tmp_path, capsys):
    pytest.importorskip("diffusers")
    out = tmp_path / "speed.json"
    quick = ["--batch", "2", "--pairs", "1", "--seconds", "0", "--threads", "1"]
    assert run_cli(tokenizer.main, [*TINY, *quick, "--profile", "--out", str(out)]) == 0
    (result,) = json.loads(out.read_text())["sizes"]
    assert {(row["operation"], row["architecture"]) for row in result["rows"]} == {
        (operation, name) for operation in ("encode", "decode", "train") for name in ("vqgan+", "amused")
    }
    for row in result["rows"]:
        assert row["ratios"] == [row["ratio"]] and 0 < row["ratio"] < math.inf
        assert row["ratio"] == pytest.approx(row["ours_images_per_second"] / row["diffusers_images_per_second"])
    assert result["parameters"]["amused"] == result["parameters"]["diffusers"] != result["parameters"]["vqgan+"]
    for spent in result["profile"].values():
        assert all(spent[kind] > 0 for kind in ("convolution", "group norm", "SiLU", "quantizer", "optimizer"))
    assert "| 16 | 2 | train | amused |" in capsys.readouterr().out


def test_order_is_reversed_in_every_other_round():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = tokenizer.compare(runs, rounds=3, least=0, device=torch.device("cpu"))
    assert "".join(calls[-6:]) == "abbaab"
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "48"], "error: --width must be a multiple of 32, the norm groups of VQModel, got 48\n"),
        (["--sizes", "18"], "error: --sizes: 18 is not a multiple of 4, the pixels of a code at this size\n"),
        (["--pairs", "0"], "error: --sizes, --pairs, --threads and --batch must be at least 1\n"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    assert run_cli(tokenizer.main, [*TINY, *arguments]) == 2
    assert capsys.readouterr().err == message


def test_message_without_diffusers(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert run_cli(tokenizer.main, TINY) == 2
    assert capsys.readouterr().err == "error: this benchmark needs diffusers: pip install diffusers\n"
