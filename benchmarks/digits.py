"""Are drawn digits the digits that were asked for? Read by a CNN that no other part of the project uses.

python benchmarks/digits.py --model runs/mnist [--n 500] [--guidance 2] [--steps 16]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diffusion.pipeline import ImageGenerator
from diffusion.settings import SamplingSettings
from images.dataset import DataConfig, load_images


def train_reader(images: Tensor, labels: Tensor, epochs: int = 8) -> nn.Module:
    """A small CNN on real digits `(N, 1, 32, 32)`, shifted by up to 2 pixels at random."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(1024, 10),
    )  # fmt: skip
    steps = epochs * (len(images) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (64,))
        dy, dx = torch.randint(-2, 3, (2,)).tolist()
        batch = images[chosen].roll((dy, dx), (2, 3))  # the 2-pixel border is empty, so nothing wraps
        optimizer.zero_grad()
        F.cross_entropy(net(batch), labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    train, held_out = (load_images(DataConfig(), split) for split in ("train", "val"))
    reader = train_reader(train.pixels.float() / 127.5 - 1, train.labels)

    @torch.no_grad()
    def accuracy(images: Tensor, labels: Tensor) -> Tensor:
        return (reader(images).argmax(1) == labels).double()

    real = held_out.pixels.float() / 127.5 - 1
    generator = ImageGenerator.from_pretrained(args.model, "cpu")
    codes = generator.generate_codes(args.n, range(10), SamplingSettings(args.steps, args.guidance), args.seed).codes
    labels = torch.arange(args.n) % 10
    right = accuracy(generator.tokenizer.decode(codes), labels)
    result = {
        "reader_accuracy_on_held_out": accuracy(real, held_out.labels).mean().item(),
        "reconstruction_accuracy": accuracy(
            generator.tokenizer.decode(generator.tokenizer.encode(real)), held_out.labels
        ).mean().item(),
        "sample_accuracy": right.mean().item(),
        "by_digit": [round(right[labels == digit].mean().item(), 3) for digit in range(10)],
        "n": args.n, "guidance": args.guidance, "steps": args.steps, "seed": args.seed,
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if result["reader_accuracy_on_held_out"] < 0.95:
        sys.exit("the reader is not good enough (below 0.95 on held-out digits): its figures mean nothing")


if __name__ == "__main__":
    main()
