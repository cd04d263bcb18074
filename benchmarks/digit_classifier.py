"""A classifier of digits that no other part of the project uses, to check that samples show the digits of their labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from images.dataset import DataConfig
from images.sources import load_images


def load_digits(split: str) -> tuple[Tensor, Tensor]:
    """Images `(N, 1, 32, 32)` in [-1, 1] and labels `(N,)` of the "train" or "val" split of the embedded digits."""
    digits = load_images(DataConfig(), split)
    images, labels = zip(*(digits[index] for index in range(len(digits))), strict=True)
    return torch.stack(images), torch.stack(labels)


def train_classifier(images: Tensor, labels: Tensor, epochs: int = 8) -> nn.Module:
    """A small CNN trained on digits `(N, 1, 32, 32)` that are shifted by up to 2 pixels at random, in eval mode."""
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
        torch.autograd.backward(F.cross_entropy(net(batch), labels[chosen]))
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def correct(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """1.0 where the classifier gives the label, else 0.0: float64 `(N,)`."""
    predicted: Tensor = classifier(images).argmax(1)
    return (predicted == labels).double()
