"""Weights of feature networks without a download: folders for them, and stand-ins."""

from types import SimpleNamespace

import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

INCEPTION = "inception-2015-12-05.pt"
VGG = "hub/checkpoints/vgg16-397923af.pth"


class StubInception(nn.Module):
    """The part of clean-fid's TorchScript file that clean-fid calls: `layers`, from (B, 3, 299, 299) to (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2048))
        self.layers = pool

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def use_weights_folder(monkeypatch, folder):
    """Let all feature networks look for their weights in `folder`, which is made."""
    folder.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(folder))
    monkeypatch.setattr("common.features.INCEPTION_FOLDER", folder)


def use_stand_ins(monkeypatch, folder):
    """Make a random VGG for LPIPS, and save a stub of Inception to the weights `folder`; returns the stub.

    The file of VGG's weights holds nothing that is read; only its hash is taken.
    """
    torch.manual_seed(0)
    features = make_layers(cfgs["D"], batch_norm=False)
    monkeypatch.setattr("torchvision.models.vgg16", lambda pretrained: SimpleNamespace(features=features))
    (folder / VGG).parent.mkdir(parents=True)
    (folder / VGG).write_bytes(b"weights of VGG")
    stub = StubInception().eval()
    torch.jit.script(stub).save(folder / INCEPTION)
    return stub
