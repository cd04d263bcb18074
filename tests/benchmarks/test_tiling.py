"""The measure of seams between tiles."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import tiling
from common.errors import run_cli


def test_step_at_borders():
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    ramp = (ramp + ramp.transpose(2, 3)) / 2
    assert tiling.step_at_borders(ramp, 16) == pytest.approx(1, rel=1e-4)
    seamed = ramp.clone()
    seamed[..., 16:] += 0.5
    assert tiling.step_at_borders(seamed, 16) > 3
    assert tiling.step_at_borders(seamed, 24) == pytest.approx(1, abs=0.1)


def test_report(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (80, 80, 3), np.uint8)).save(tmp_path / f"images/{index}.png")
    arguments = ["--model", "models/emoji64", "--images", str(tmp_path / "images"), "--size", "128", "--tile", "64"]
    assert run_cli(tiling.main, [*arguments, "--overlaps", "0", "16", "--out", str(tmp_path / "out")]) == 0
    whole, apart, overlapping = json.loads((tmp_path / "out/tiling.json").read_text())
    assert whole["overlap"] == "whole" and whole["codes_changed"] == 0 == whole["largest_difference"]
    assert [apart["overlap"], overlapping["overlap"]] == [0, 16]
    assert apart["mean_difference"] > overlapping["mean_difference"] > 0
    assert Image.open(tmp_path / "out/tiled-16.png").size == (128, 128)
    assert "| whole |" in capsys.readouterr().out
