"""Small tokenizers and images to evaluate, and the command that evaluates them."""

import json

import numpy as np
import torch
from PIL import Image

import evaluate
from common.errors import run_cli
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig


def save_tokenizer(folder, size=32, channels=3):
    torch.manual_seed(0)
    config = TokenizerConfig(width=8, blocks=1, quantizer=QuantizerConfig(codebook_size=256, kmeans_init=False))
    tokenizer = Tokenizer(config, size, channels).eval()
    tokenizer.save(folder / "tokenizer", {})
    return tokenizer


def save_images(folder, count, size=32):
    """Images from grey to noise in three classes; the order of their names is not that of their noise.

    Returns: their files in the order of the names, and their pixels uint8 (count, size, size, 3).
    """
    for index in range(count):
        noise_level = (index * 7) % count / count
        noise = np.random.default_rng(index).normal(128, 1 + 60 * noise_level, (size, size, 3)).clip(0, 255)
        file = folder / f"{index % 3}" / f"{index:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.astype(np.uint8)).save(file)
    files = sorted(folder.rglob("*.png"))
    return files, np.stack([np.asarray(Image.open(file)) for file in files])


def run(model, reference, out, *more):
    """The report of evaluate.py; constants such as NaN, which JSON does not have, are an error."""
    assert run_cli(evaluate.main, ["--model", str(model), "--reference", str(reference), "--out", str(out), *more]) == 0

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(out.read_text(), parse_constant=refuse)


def to_images(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
