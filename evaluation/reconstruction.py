"""Scores of reconstructions, in one pass over the reference images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from common.features import InceptionFeatures
from common.metrics import codebook_use, psnr, ssim
from evaluation.decode import decode_pixels
from evaluation.frechet import distance_with_bar, frechet_part
from evaluation.gallery import Gallery
from evaluation.networks import ScoreNetworks, note_of, weights_part
from evaluation.reference import ReferenceImages
from evaluation.report import Part
from images.convert import from_8_bits

if TYPE_CHECKING:
    from diffusion.request import CodesToImages

MIN_SSIM_SIZE = 11  # the side of its window


@dataclass(frozen=True)
class Reconstruction:
    """The results of one pass over the reference images.

    Attributes:
        report: the part of the report.
        image_grids: image grids by name, to write next to the report.
        codes: of all images, `(N, h, w)`.
        classes: of all images, "" for an image without a class.
        features: EfficientNet's, of the reference images, `(N, D)`.
    """

    report: Part
    image_grids: dict[str, Image.Image]
    codes: Tensor
    classes: list[str]
    features: Tensor


class FeaturePairs:
    """Features of reconstructions and of reference images, each `(N, D)` in the end."""

    def __init__(self) -> None:
        self.restored: list[Tensor] = []
        self.reference: list[Tensor] = []

    def add(self, restored: Tensor, reference: Tensor) -> None:
        """Keep the features `(B, D)` of the next batch."""
        self.restored.append(restored.float().cpu())
        self.reference.append(reference.float().cpu())

    def distance(self, extractor: str) -> float:
        """The Frechet distance between the two sets; `extractor` names the feature network."""
        return distance_with_bar(torch.cat(self.restored), torch.cat(self.reference), extractor)


class ReconstructionScores:
    """Collects scores batch by batch; of every image only its scores and features are kept."""

    def __init__(self, networks: ScoreNetworks, image_size: int) -> None:
        self.networks, self.image_size = networks, image_size
        self.compare: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr}
        if image_size >= MIN_SSIM_SIZE:
            self.compare["ssim"] = ssim
        if networks.lpips is not None:
            self.compare["lpips"] = networks.lpips
        self.values: dict[str, list[Tensor]] = {name: [] for name in self.compare}
        self.efficientnet, self.inception = FeaturePairs(), FeaturePairs()
        # Not a tensor with an entry for every code: a codebook without a table may have 2^36 of them.
        self.code_counts: Counter[int] = Counter()

    @torch.no_grad()
    def add(self, pixels: Tensor, restored_pixels: Tensor, codes: Tensor) -> Tensor:
        """Score a batch and return its PSNR `(B,)` in dB.

        Args:
            pixels, restored_pixels: uint8 `(B, C, S, S)`, reference images and their reconstructions.
            codes: `(B, h, w)`.
        """
        images, restored = from_8_bits(pixels), from_8_bits(restored_pixels)
        for name, compare in self.compare.items():
            self.values[name].append(compare(restored, images).double().cpu())
        self.efficientnet.add(self.networks.efficientnet(restored), self.networks.efficientnet(images))
        if self.networks.inception is not None:
            self.inception.add(self.networks.inception(restored_pixels), self.networks.inception(pixels))
        found, counts = torch.unique(codes, return_counts=True)
        self.code_counts.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        return self.values["psnr"][-1]

    def report(self, reference: str, codebook_size: int) -> Part:
        """The part of the report: means over images, each with a note on what it depends on."""
        decibels = torch.cat(self.values["psnr"])
        finite = decibels[decibels.isfinite()]
        count, networks = len(decibels), self.networks
        rfid_note = (
            f"{InceptionFeatures.name} and resizing, of {count} images at {self.image_size} pixels; few images raise it"
        )
        inception_weights = None if networks.inception is None else networks.inception.weights
        frechet = self.efficientnet.distance(networks.efficientnet.name)
        return {
            "images": count,
            "psnr_db": finite.mean().item() if len(finite) else None,
            "psnr_note": "mean over images without those that are reconstructed bit for bit: their PSNR is infinite",
            "bit_for_bit": count - len(finite),
            "ssim": self._mean("ssim"),
            "ssim_note": f"mean over images; needs {MIN_SSIM_SIZE} pixels a side",
            "lpips": self._mean("lpips"),
            "lpips_note": networks.lpips_missing
            or note_of(networks.lpips_weights, "mean over images; VGG-16, version 0.1"),
            "lpips_weights": weights_part(networks.lpips_weights),
            "rfid": None if networks.inception is None else self.inception.distance(InceptionFeatures.name),
            "rfid_note": networks.inception_missing or note_of(inception_weights, rfid_note),
            "rfid_weights": weights_part(inception_weights),
            **codebook_use(torch.tensor(list(self.code_counts.values())), codebook_size),
            "frechet": frechet_part(frechet, networks.efficientnet.name, count, reference, count),
        }

    def _mean(self, name: str) -> float | None:
        return torch.cat(self.values[name]).mean().item() if name in self.values else None


def reconstruct(tokenizer: CodesToImages, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Codes `(B, h, w)` of uint8 images `(B, C, S, S)`, and their reconstructions, uint8 as well."""
    codes = tokenizer.encode(from_8_bits(pixels))
    return codes, decode_pixels(tokenizer, codes)


def score_reconstruction(
    tokenizer: CodesToImages,
    reference: ReferenceImages,
    networks: ScoreNetworks,
    device: torch.device,
) -> Reconstruction:
    """Reconstruct every reference image, score the reconstructions at 8 bits, and keep some of them to look at.

    Raises:
        UserError: fewer than 2 images decode, or reconstructions are not finite.
    """
    scores, gallery = ReconstructionScores(networks, reference.size), Gallery(reference.count)
    codes: list[Tensor] = []
    classes: list[str] = []
    for batch in reference:
        pixels = batch.pixels.to(device)
        batch_codes, restored = reconstruct(tokenizer, pixels)
        decibels = scores.add(pixels, restored, batch_codes)
        gallery.add(pixels, restored, decibels, batch.files)
        classes += batch.classes
        codes.append(batch_codes.cpu())
    report = scores.report(reference.source.name, tokenizer.codebook_size) | {"worst": gallery.worst_entries()}
    features = torch.cat(scores.efficientnet.reference)
    return Reconstruction(report, gallery.image_grids(), torch.cat(codes), classes, features)
