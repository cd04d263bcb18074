"""evaluate.py, end to end."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
from common.errors import run_cli
from tests.evaluation.inputs import run, save_images, save_tokenizer
from tests.weights import INCEPTION


def test_help_needs_no_torch():
    code = "import sys, evaluate\ntry: evaluate.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--guidance" in done.stdout


def test_without_weights_the_report_says_which_files_to_place_where(tmp_path, weights_folder, capsys):
    save_tokenizer(tmp_path / "model")
    save_images(tmp_path / "images", 3)
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")["reconstruction"]
    for score, file, folder in (
        ("lpips", "vgg16-397923af.pth", weights_folder / "hub" / "checkpoints"),
        ("rfid", INCEPTION, weights_folder),
    ):
        assert found[score] is None
        assert found[f"{score}_note"].startswith(f"place {file} in {folder}:")
    assert capsys.readouterr().out == f"{tmp_path / 'r.json'}\n"
    assert Image.open(tmp_path / "r-worst.png").size == (3 * 34 - 2, 2 * 34 - 2)


def test_no_download_tries_none(tmp_path, monkeypatch):
    save_tokenizer(tmp_path / "model")
    save_images(tmp_path / "images", 3)
    monkeypatch.setattr(torch.hub, "urlopen", lambda *args, **keys: pytest.fail("a download was tried"))
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json", "--no-download")["reconstruction"]
    assert found["lpips"] is None
    assert "downloads are off" in found["lpips_note"]


def test_a_prior_adds_likelihood_and_samples(tiny_run, tmp_path, no_lpips, capsys):
    arguments = ["--n", "20", "--steps", "2", "--sampler", "tweedie"]
    report = run(tiny_run, "mnist5k", tmp_path / "report.json", *arguments)
    assert "samples use tweedie, 2 steps" in capsys.readouterr().err
    assert report["samples"]["extractor"] == "efficientnet_lite0@64"
    assert report["samples"]["images"] == 20
    assert report["samples"]["sampler"] == "tweedie"
    assert report["samples"]["num_inference_steps"] == 2
    assert 1 <= report["samples"]["network_calls"] <= 2
    for part in (report["samples"], report["reconstruction"]["frechet"]):
        assert part["frechet_distance"] > 1
        assert part["reference_images"] == 500
    assert 0 < report["reconstruction"]["psnr_db"] < 30
    assert 0 < report["reconstruction"]["codes_used"] <= 1
    likelihood = report["likelihood"]
    assert 2 < likelihood["bits_per_code"] < 10
    assert likelihood["bits_per_code_standard_error"] > 0
    assert abs(likelihood["bits_per_dimension"] - likelihood["bits_per_code"] / 16) < 1e-9


def test_reconstruction_alone_does_not_read_the_prior(tmp_path, no_lpips):
    save_tokenizer(tmp_path / "model")
    save_images(tmp_path / "images", 3)
    (tmp_path / "model" / "prior").mkdir()
    command = ["--model", tmp_path / "model", "--reference", tmp_path / "images", "--out", tmp_path / "r.json"]
    assert run_cli(evaluate.main, [str(word) for word in command]) == 2
    report = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json", "--only", "reconstruction")
    assert set(report) == {"model", "reference", "reconstruction"}
    assert report["reconstruction"]["images"] == 3


@pytest.mark.parametrize(("other", "low", "high"), [("dark", -1e-3, 1e-3), ("light", 1, math.inf)])
def test_a_folder_is_at_distance_zero_from_itself_and_far_from_another(tmp_path, other, low, high):
    for name, shade in (("dark", 0), ("light", 100)):
        (tmp_path / name).mkdir()
        for index in range(4):
            noise = np.random.default_rng(index).integers(shade, shade + 100, (32, 32, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{index}.png")
    command = ["--images", tmp_path / "dark", "--reference", tmp_path / other, "--out", tmp_path / "r.json"]
    assert run_cli(evaluate.main, [str(word) for word in command]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report) == {"images", "samples"}
    assert low < report["samples"]["frechet_distance"] < high
    assert report["samples"]["images"] == 4


@pytest.fixture
def inputs(tmp_path):
    """Models and folders, of which some are damaged."""
    tokenizer = save_tokenizer(tmp_path / "model")
    with torch.no_grad():
        tokenizer.decoder.conv_out.bias.fill_(math.nan)
    tokenizer.save(tmp_path / "damaged" / "tokenizer", {})
    save_images(tmp_path / "images", 3)
    save_images(tmp_path / "one", 1)
    files, _ = save_images(tmp_path / "one-good", 2)
    files[0].write_bytes(b"nothing")
    (tmp_path / "none").mkdir()
    (tmp_path / "taken-worst.png").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model TMP/model --reference TMP/nowhere", "no folder"),
        ("--model TMP/model --reference TMP/none", "no images"),
        ("--model TMP/model --reference TMP/one", "at least 2"),
        ("--model TMP/model --reference TMP/one-good", "need 2"),
        ("--model TMP/nowhere --reference TMP/images", "no model directory"),
        ("--model TMP/images --reference TMP/images", "no trained tokenizer"),
        ("--model TMP/damaged --reference TMP/images", "not finite"),
        ("--model TMP/model --reference TMP/images --out TMP/none", "is a folder"),
        ("--model TMP/model --reference TMP/images --out TMP/taken.json", "is a folder"),
        ("--model TMP/model --reference TMP/images --out TMP/one/0/00.png/r.json", "cannot write"),
        ("--model TMP/model --reference TMP/images --only samples", "invalid choice"),
        ("--model TMP/model --reference TMP/images --n 1", "--n must be at least 2"),
        ("--model TMP/model --reference TMP/images --seed -1", "--seed must not be negative"),
        ("--images TMP/images --reference TMP/images --only reconstruction", "--only"),
        ("--images TMP/one --reference TMP/images", "at least 2"),
    ],
)
def test_mistakes_give_one_line_and_leave_nothing(inputs, no_lpips, capfd, arguments, message):
    before = sorted(inputs.rglob("*"))
    try:
        code = run_cli(evaluate.main, ["--out", f"{inputs}/r.json", *arguments.replace("TMP", str(inputs)).split()])
    except SystemExit as stop:
        code = stop.code
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert sorted(inputs.rglob("*")) == before
