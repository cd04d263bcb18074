"""The feature networks of the scores; a network without weights is left out, and the report says which file it needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from common.errors import print_note
from common.features import EfficientNetFeatures, InceptionFeatures, WeightsFile, WeightsMissing
from evaluation.report import Part
from vq.perceptual import downloaded_weights, load_downloaded

log = logging.getLogger(__name__)
MIN_LPIPS_SIZE = 16
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class ScoreNetworks:
    """The networks, on one device and in eval mode; for each one that is None, one line says why.

    `lpips_weights` is the file of LPIPS's backbone.
    """

    efficientnet: EfficientNetFeatures
    lpips: nn.Module | None
    lpips_weights: WeightsFile | None
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
    lpips_weights = None if lpips is None else _backbone_of_lpips()
    inception, inception_missing = _load("rFID", lambda: InceptionFeatures(download), device)
    for score, weights in (("LPIPS", lpips_weights), ("rFID", inception and inception.weights)):
        if weights is not None and not weights.published:
            print_note(
                f"{weights.path} is not the published file (its SHA-256 is {weights.sha256}): {score} is of weights of "
                "unknown origin; delete or replace the file"
            )
    return ScoreNetworks(efficientnet, lpips, lpips_weights, lpips_missing, inception, inception_missing)


def weights_part(weights: WeightsFile | None) -> Part | None:
    """For the report: which file of weights a score is of."""
    if weights is None:
        return None
    return {
        "file": weights.path.name,
        "bytes": weights.size,
        "sha256": weights.sha256,
        "published": weights.published,
    }


def note_of(weights: WeightsFile | None, note: str) -> str:
    """The `note` of a score, which begins with a warning where its weights are not the published ones."""
    unknown = weights is not None and not weights.published
    return f"weights of unknown origin, compare with no other number: {note}" if unknown else note


def _backbone_of_lpips() -> WeightsFile:
    file, _ = downloaded_weights("lpips")
    return WeightsFile.read(file, published=file.stem.rsplit("-", 1)[-1])


def _load(score: str, build: Callable[[], Network], device: torch.device) -> tuple[Network | None, str]:
    """The network that `build` returns and ""; None and the reason where its weights are missing."""
    try:
        network = build()
    except WeightsMissing as missing:
        log.warning("no %s: %s", score, missing)
        return None, str(missing)
    return network.to(device).eval(), ""
