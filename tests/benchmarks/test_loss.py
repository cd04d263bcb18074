"""The comparison of the chunked output head with plain cross entropy."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import loss
from common.errors import run_cli


@pytest.fixture(autouse=True)
def small_inputs(monkeypatch):
    for name, value in {"BATCH": 4, "POSITIONS": 9, "WIDTH": 8}.items():
        monkeypatch.setattr(loss, name, value)


def test_both_losses_are_equal_and_drop_their_gradients():
    inputs = loss.make_inputs(16, "cpu", torch.float32)
    torch.testing.assert_close(loss.step("plain", inputs), loss.step("chunked", inputs))
    assert inputs.features.grad is None and inputs.head.weight.grad is None
    assert inputs.weights.sum() == pytest.approx(1) and 0 < (inputs.weights > 0).float().mean() < 1


def test_report(monkeypatch, capsys):
    peaks = {"plain": "10.0", "chunked": "2.5"}
    monkeypatch.setattr(loss.subprocess, "run", lambda command, **_: SimpleNamespace(stdout=peaks[command[-1]]))
    assert run_cli(loss.main, ["--vocabulary", "16", "32", "--pairs", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["vocabulary"] for row in rows] == [16, 32]
    for row in rows:
        assert row["memory_ratio"] == 0.25 and row["time_ratio_median"] > 0
        assert row["loss"]["chunked"] == pytest.approx(row["loss"]["plain"])
