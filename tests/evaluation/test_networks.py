from urllib.error import URLError

import pytest
import torch

from evaluation.networks import load_networks
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
