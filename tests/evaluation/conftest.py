"""Weights for the scores: none by default."""

import pytest
import torch

from tests.weights import use_stand_ins


@pytest.fixture(autouse=True)
def one_thread(threads):
    torch.set_num_threads(1)  # images this small gain nothing from more


@pytest.fixture(autouse=True)
def no_weights(weights_folder):
    """No weights, and no network to download them."""


@pytest.fixture
def no_lpips(monkeypatch):
    """LPIPS fails at once, without the second in which it makes an empty VGG first."""
    monkeypatch.setattr("lpips.LPIPS", lambda **keys: torch.hub.urlopen())


@pytest.fixture
def all_weights(weights_folder, monkeypatch):
    """Stand-ins for the weights of LPIPS and Inception."""
    use_stand_ins(monkeypatch, weights_folder)
