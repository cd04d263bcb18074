"""No network, and folders for weights that hold none."""

from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from torchvision.models.vgg import cfgs, make_layers

import common.features
from tests.evaluation.made import INCEPTION, StubInception


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Folders for weights that hold none, and no network to fill them."""

    def fail(*args, **kwargs):
        raise URLError("no network")

    torch.set_num_threads(1)  # images this small gain nothing from more
    weights = tmp_path / "weights"
    weights.mkdir()
    monkeypatch.setattr(torch.hub, "urlopen", fail)
    monkeypatch.setenv("TORCH_HOME", str(weights))
    monkeypatch.setattr(common.features, "INCEPTION_FOLDER", weights)
    return weights


@pytest.fixture
def no_lpips(monkeypatch):
    """LPIPS fails at once, without the second that it takes to make an empty VGG first."""
    monkeypatch.setattr("lpips.LPIPS", lambda **keys: torch.hub.urlopen())


@pytest.fixture
def all_weights(no_network, monkeypatch):
    """A random VGG for LPIPS and a stub of Inception where clean-fid looks for it; returns the stub."""
    torch.manual_seed(0)
    features = make_layers(cfgs["D"], batch_norm=False)
    monkeypatch.setattr("torchvision.models.vgg16", lambda pretrained: SimpleNamespace(features=features))
    stub = StubInception().eval()
    torch.jit.script(stub).save(no_network / INCEPTION)
    return stub
