"""evaluate.py, end to end."""

import json

import numpy as np
from PIL import Image

import evaluate
from common.errors import run_cli
from tests.evaluation.made import INCEPTION, run, save_images, save_tokenizer


def test_without_weights_the_report_says_what_to_place_where(tmp_path, no_network, capsys):
    save_tokenizer(tmp_path / "model")
    save_images(tmp_path / "images", 3)
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")["reconstruction"]
    for score, file, folder in (
        ("lpips", "vgg16-397923af.pth", no_network / "hub" / "checkpoints"),
        ("rfid", INCEPTION, no_network),
    ):
        note = found[f"{score}_note"]
        assert found[score] is None and note.startswith(f"place {file} in {folder}:") and "\n" not in note
    assert not [file for file in no_network.rglob("*") if file.is_file()]
    assert capsys.readouterr().out == f"{tmp_path / 'r.json'}\n"
    assert Image.open(tmp_path / "r-worst.png").size == (3 * 34 - 2, 2 * 34 - 2)


def test_a_prior_adds_likelihood_and_samples(tiny_run, tmp_path, no_lpips):
    out = tmp_path / "report.json"
    arguments = ["--model", str(tiny_run), "--reference", "mnist5k", "--n", "20", "--steps", "2"]
    assert run_cli(evaluate.main, [*arguments, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["samples"]["extractor"] == "efficientnet_lite0@64" and report["samples"]["images"] == 20
    for part in (report["samples"], report["reconstruction"]["frechet"]):
        assert part["frechet_distance"] > 1 and part["reference_images"] == 500
    assert 0 < report["reconstruction"]["psnr_db"] < 30 and 0 < report["reconstruction"]["codes_used"] <= 1
    likelihood = report["likelihood"]
    assert 2 < likelihood["bits_per_code"] < 10 and likelihood["bits_per_code_standard_error"] > 0
    assert abs(likelihood["bits_per_dimension"] - likelihood["bits_per_code"] / 16) < 1e-9
    assert 1 <= report["samples"]["network_calls"] <= 2 and report["samples"]["sampler"] == "tweedie"


def test_reconstruction_alone_needs_no_prior_that_can_be_read(tmp_path, no_lpips):
    save_tokenizer(tmp_path / "model")
    save_images(tmp_path / "images", 3)
    (tmp_path / "model" / "prior").mkdir()
    command = ["--model", tmp_path / "model", "--reference", tmp_path / "images", "--out", tmp_path / "r.json"]
    assert run_cli(evaluate.main, [str(word) for word in command]) == 2
    report = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json", "--only", "reconstruction")
    assert set(report) == {"model", "reference", "reconstruction"} and report["reconstruction"]["images"] == 3


def test_a_folder_is_at_distance_zero_from_itself_and_far_from_another(tmp_path):
    for name, bright in (("dark", 0), ("light", 100)):
        for index in range(4):
            noise = np.random.default_rng(index).integers(bright, bright + 100, (32, 32, 3), np.uint8)
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(noise).save(tmp_path / name / f"{index}.png")
    out = tmp_path / "report.json"
    distances = []
    for reference in ("dark", "light"):
        arguments = ["--images", str(tmp_path / "dark"), "--reference", str(tmp_path / reference), "--out", str(out)]
        assert run_cli(evaluate.main, arguments) == 0
        distances.append(json.loads(out.read_text())["samples"]["frechet_distance"])
    assert abs(distances[0]) < 1e-3
    assert distances[1] > 1
