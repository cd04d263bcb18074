"""The feature networks of the scores; a network without weights is left out, and the report says which file it needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from common.features import EfficientNetFeatures, InceptionFeatures, WeightsMissing
from vq.perceptual import load_downloaded

log = logging.getLogger(__name__)
MIN_LPIPS_SIZE = 16
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class ScoreNetworks:
    """The networks, on one device and in eval mode; for each one that is None, one line says why."""

    efficientnet: EfficientNetFeatures
    lpips: nn.Module | None
    lpips_missing: str
    inception: InceptionFeatures | None
    inception_missing: str


def load_networks(image_size: int, device: torch.device, download: bool) -> ScoreNetworks:
    """Load the networks for scores of images of `image_size` pixels a side.

    Args:
        download: whether missing weights may be downloaded.

    Raises:
        UserError: EfficientNet is not installed.
    """
    lpips, lpips_missing = None, f"VGG-16 needs {MIN_LPIPS_SIZE} pixels a side: it halves images four times"
    efficientnet = EfficientNetFeatures().to(device).eval()
    if image_size >= MIN_LPIPS_SIZE:
        lpips, lpips_missing = _load("LPIPS", lambda: load_downloaded("lpips", download), device)
    inception, inception_missing = _load("rFID", lambda: InceptionFeatures(download), device)
    return ScoreNetworks(efficientnet, lpips, lpips_missing, inception, inception_missing)


def _load(score: str, build: Callable[[], Network], device: torch.device) -> tuple[Network | None, str]:
    """The network that `build` returns and ""; None and the reason where its weights are missing."""
    try:
        network = build()
    except WeightsMissing as missing:
        log.warning("no %s: %s", score, missing)
        return None, str(missing)
    return network.to(device).eval(), ""
