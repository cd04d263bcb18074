"""The classifier of digits, and the benchmarks that use it."""

import json

import pytest
from torch import nn

from benchmarks import digits, samplers
from benchmarks.digit_classifier import correct, load_digits, train_classifier
from common.errors import run_cli


@pytest.fixture(scope="module")
def validation():
    return load_digits("val")


@pytest.fixture
def quick(monkeypatch, validation):
    """Few images and an untrained classifier."""
    for module in (digits, samplers):
        monkeypatch.setattr(module, "load_digits", lambda split: [part[:20] for part in validation])
        monkeypatch.setattr(
            module, "train_classifier", lambda images, labels: nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
        )


def test_classifier_learns(validation):
    images, labels = validation
    assert images.shape == (500, 1, 32, 32) and labels.bincount().tolist() == [50] * 10
    classifier = train_classifier(images, labels, epochs=3)
    assert correct(classifier, images, labels).mean() > 0.4
    assert correct(classifier, images, (labels + 1) % 10).mean() < 0.2


def test_digits(tiny_run, quick, capsys, monkeypatch):
    monkeypatch.setattr(digits, "LEAST_ACCURACY", 0.0)
    command = ["--model", str(tiny_run), "--n", "10", "--steps", "2"]
    assert run_cli(digits.main, command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 10 and len(result["by_digit"]) == 10
    assert result["sample_accuracy"] == pytest.approx(sum(result["by_digit"]) / 10)
    monkeypatch.setattr(digits, "LEAST_ACCURACY", 1.1)
    assert run_cli(digits.main, command) == 2
    assert "below 1.1 on real digits" in capsys.readouterr().err


def test_samplers(tiny_run, quick, monkeypatch, tmp_path):
    monkeypatch.setattr(samplers, "samplers_for", lambda graph: ["tweedie", "maskgit"])
    out = tmp_path / "new/samplers"
    command = ["--model", str(tiny_run), "--out", str(out), "--n", "4", "--steps", "2", "3"]
    assert run_cli(samplers.main, [*command, "--samplers", "tweedie", "halton", "maskgit"]) == 0
    rows = json.loads(out.with_suffix(".json").read_text())["rows"]
    expected = [("tweedie", 2), ("tweedie", 3), ("maskgit", 2), ("maskgit", 3)]  # halton does not fit the graph
    assert [(row["sampler"], row["steps"]) for row in rows] == expected
    assert all(0 < row["network_calls"] <= row["steps"] and row["images_per_second"] > 0 for row in rows)
    assert out.with_suffix(".md").read_text().count("\n") == 2 + len(rows)
    assert out.with_suffix(".png").stat().st_size > 1000
