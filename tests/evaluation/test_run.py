"""evaluate.py, end to end."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
from common.errors import run_cli
from diffusion.pipeline import ImageGenerator
from evaluation.reference import ReferenceImages
from evaluation.source import find_source
from images.convert import from_8_bits
from images.folder import read_splits
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
    assert set(report) == {"model", "reference", "reconstruction", "data"}
    assert report["reconstruction"]["images"] == 3


def test_a_tokenizer_alone_refuses_flags_that_only_a_prior_reads(tmp_path, no_lpips, capsys):
    save_tokenizer(tmp_path / "model")
    save_images(tmp_path / "images", 3)
    command = ["--model", tmp_path / "model", "--reference", tmp_path / "images", "--out", tmp_path / "r.json"]
    for flags in (["--n", "20"], ["--seed", "0"], ["--steps", "2"]):
        assert run_cli(evaluate.main, [str(word) for word in [*command, *flags]]) == 2
        assert "need a prior" in capsys.readouterr().err


def test_the_report_counts_what_was_scored_and_warns_of_training_images(tmp_path, no_lpips, capsys):
    save_tokenizer(tmp_path / "model")
    files, _ = save_images(tmp_path / "images", 24)
    (tmp_path / "model/config.yaml").write_text(f"data:\n  source: folder\n  path: {tmp_path / 'images'}\n")
    trained = len(read_splits(tmp_path / "images", 0.1).split("train")[1])
    files[0].write_bytes(b"damaged")
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")["data"]["reference"]
    assert (found["found"], found["scored"], found["skipped"]) == (24, 23, 1)
    assert found["training_images"] == trained
    assert f"{trained} of the 24 reference images are training images" in capsys.readouterr().err
    found = run(tmp_path / "model", tmp_path / "model/config.yaml", tmp_path / "r.json")["data"]["reference"]
    assert found["split"] == "val"
    assert found["scored"] == 24 - trained
    assert found["training_images"] == 0
    assert "training images" not in capsys.readouterr().err


def test_classes_have_the_numbers_of_the_model(lively_run, tmp_path, no_lpips, capsys):
    """Of ten classes the reference has one that is not the first, and one that is unknown."""
    for name in ("7", "owl"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(3):
            noise = np.random.default_rng(index).integers(0, 255, (32, 32), np.uint8)
            Image.fromarray(noise).save(tmp_path / "images" / name / f"{index}.png")
    arguments = ["--n", "2", "--steps", "1", "--sampler", "tweedie", "--guidance", "1"]
    report = run(lively_run, tmp_path / "images", tmp_path / "r.json", *arguments)
    generator = ImageGenerator.from_pretrained(lively_run)
    pixels = torch.cat([batch.pixels for batch in ReferenceImages(find_source(str(tmp_path / "images")), 32, 1)])
    codes = generator.tokenizer.encode(from_8_bits(pixels))
    labels = torch.tensor([7] * 3 + [10] * 3)
    wanted = generator.prior.likelihood(codes, labels, torch.Generator().manual_seed(0))
    without = generator.prior.likelihood(codes, torch.full((6,), 10), torch.Generator().manual_seed(0))
    assert report["likelihood"]["nats_per_code"] == pytest.approx(wanted.nats, rel=1e-3)
    assert abs(wanted.nats - without.nats) > 10 * 1e-3 * wanted.nats
    assert report["likelihood"]["unknown_classes"] == {"count": 1, "first": ["owl"]}
    assert "unknown classes: 'owl'" in capsys.readouterr().err.partition("read and score")[0]


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
        ("--model TMP/model --reference TMP/images --out TMP/one/0/00.png", "ends in .json"),
        ("--model TMP/model --reference TMP/images --out TMP/model/tokenizer/config.json", "not a report"),
        ("--model TMP/model --reference TMP/images --out TMP/images/1/r.json", "among the reference"),
        ("--model TMP/model --reference TMP/model", "is a model directory"),
        ("--model TMP/model --reference TMP/images --size 32", "--size only acts with --images"),
        ("--model TMP/model --reference TMP/images --only reconstruction --n 20 --steps 3", "--n, --steps only act"),
        ("--model TMP/model --reference mnist5k:test", "no folder"),
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
