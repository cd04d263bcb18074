"""The Frechet distance between two sets of features, as a part of the report."""

from __future__ import annotations

from torch import Tensor
from tqdm import tqdm

from common.metrics import frechet_distance
from evaluation.report import Part


def distance_with_bar(features: Tensor, reference: Tensor, extractor: str) -> float:
    """The Frechet distance of features `(N, D)` and `(M, D)`; a bar says that it is computed, which takes seconds.

    Args:
        extractor: name of the feature network.
    """
    with tqdm(total=1, desc=f"Frechet distance of {extractor}", unit="distance") as bar:
        distance = frechet_distance(features, reference)
        bar.update()
    return distance


def frechet_part(distance: float, extractor: str, images: int, reference: str, reference_images: int) -> Part:
    """A Frechet distance with everything that its value depends on.

    Args:
        extractor: name of the feature network.
        images, reference_images: numbers of images.
        reference: name or folder of the reference images.
    """
    return {
        "frechet_distance": distance,
        "extractor": extractor,
        "note": "not FID: another feature network",
        "images": images,
        "reference": reference,
        "reference_images": reference_images,
    }
