"""The comparison of sliding windows with rotary extrapolation."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import large_grids
from common.errors import run_cli


def test_seam():
    pixels = np.tile(np.arange(32, dtype=np.uint8), (8, 1))
    assert large_grids.seam([Image.fromarray(pixels)]) == pytest.approx(1)
    pixels[:, 16:] += 50
    assert large_grids.seam([Image.fromarray(pixels)]) > 10


def test_report(tiny_run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "real").mkdir()
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(tmp_path / f"real/{index}.png")
    command = ["--model", str(tiny_run), "--reference", str(tmp_path / "real"), "--n", "6", "--steps", "1"]
    assert run_cli(large_grids.main, [*command, "--out", str(tmp_path / "out.png")]) == 0
    own, sliding, rotary, _ = capsys.readouterr().out.splitlines()
    assert own.startswith("own size   Frechet distance of 12 parts") and "seam" not in own
    assert all("of 12 parts" in line and "seam" in line for line in (sliding, rotary))
    assert Image.open(tmp_path / "out.png").width > 6 * 64
