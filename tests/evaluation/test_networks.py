import hashlib
from urllib.error import URLError

import pytest
import torch

from evaluation.networks import load_networks, note_of, weights_part
from tests.weights import INCEPTION

CPU = torch.device("cpu")
VGG = "vgg16-397923af.pth"


@pytest.fixture
def requests(monkeypatch):
    """The downloads that were tried; all fail."""
    tried = []

    def fail(*args, **kwargs):
        tried.append(args)
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    return tried


def test_all_networks_are_frozen_and_in_eval_mode(all_weights):
    networks = load_networks(32, CPU, download=True)
    assert (networks.lpips_missing, networks.inception_missing) == ("", "")
    for network in (networks.efficientnet, networks.lpips, networks.inception):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_missing_weights_are_named_with_their_folder(requests, weights_folder):
    networks = load_networks(32, CPU, download=True)
    assert networks.lpips is None
    assert networks.inception is None
    assert networks.lpips_missing.startswith(f"place {VGG} in {weights_folder / 'hub/checkpoints'}:")
    assert networks.inception_missing.startswith(f"place {INCEPTION} in {weights_folder}:")
    assert "\n" not in networks.lpips_missing + networks.inception_missing
    assert len(requests) == 2
    assert not [file for file in weights_folder.rglob("*") if file.is_file()]


def test_nothing_is_downloaded_if_downloads_are_off(requests):
    networks = load_networks(32, CPU, download=False)
    assert requests == []
    for reason in (networks.lpips_missing, networks.inception_missing):
        assert reason.endswith("the file is missing, and downloads are off")


def test_small_images_have_no_lpips(all_weights):
    networks = load_networks(15, CPU, download=False)
    assert networks.lpips is None
    assert "16 pixels" in networks.lpips_missing
    assert networks.inception is not None


def test_weights_that_are_not_the_published_ones_are_named(all_weights, weights_folder, capsys):
    networks = load_networks(32, CPU, download=False)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    for note, score, weights in zip(
        notes, ("LPIPS", "rFID"), (networks.lpips_weights, networks.inception.weights), strict=True
    ):
        content = weights.path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        assert f"{weights.path} is not the published file" in note
        assert f"{score} is of weights of unknown origin" in note
        assert sha256 in note
        assert weights_part(weights) == {
            "file": weights.path.name, "bytes": len(content), "sha256": sha256, "published": False,
        }  # fmt: skip
        assert note_of(weights, "mean").startswith("weights of unknown origin")


def test_published_weights_need_no_note(all_weights, weights_folder, monkeypatch, capsys):
    sha256 = hashlib.sha256((weights_folder / INCEPTION).read_bytes()).hexdigest()
    monkeypatch.setattr("common.features.INCEPTION_SHA256", sha256)
    weights = load_networks(8, CPU, download=False).inception.weights
    assert weights.published
    assert capsys.readouterr().err == ""
    assert note_of(weights, "mean") == "mean"


def test_missing_networks_have_no_weights():
    networks = load_networks(8, CPU, download=False)
    assert weights_part(networks.lpips_weights) is None
    assert note_of(None, "mean") == "mean"
