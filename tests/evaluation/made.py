"""Tokenizers, images and stubs of networks for tests of the evaluation."""

import json

import numpy as np
import torch
from PIL import Image
from torch import nn

import evaluate
from common.errors import run_cli
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig

INCEPTION = "inception-2015-12-05.pt"


class StubInception(nn.Module):
    """What clean-fid asks of its TorchScript file: `layers`, from (B, 3, 299, 299) to (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2048))
        self.layers = pool

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def save_tokenizer(folder, size=32, channels=3):
    torch.manual_seed(0)
    config = TokenizerConfig(width=8, blocks=1, quantizer=QuantizerConfig(codebook_size=256, kmeans_init=False))
    tokenizer = Tokenizer(config, size, channels).eval()
    tokenizer.save(folder / "tokenizer", {})
    return tokenizer


def save_images(folder, count, size=32):
    """Ever rougher ones from grey to noise, in an order that is not that of their names; returns them in that."""
    for index in range(count):
        rough = (index * 7) % count / count
        noise = np.random.default_rng(index).normal(128, 1 + 60 * rough, (size, size, 3)).clip(0, 255)
        file = folder / f"{index % 3}" / f"{index:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.astype(np.uint8)).save(file)
    files = sorted(folder.rglob("*.png"))
    return files, np.stack([np.asarray(Image.open(file)) for file in files])


def run(model, reference, out, *more):
    assert run_cli(evaluate.main, ["--model", str(model), "--reference", str(reference), "--out", str(out), *more]) == 0

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(out.read_text(), parse_constant=refuse)


def to_images(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
