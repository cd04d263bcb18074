"""The reference images that are kept to look at, each above its reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from images.convert import pixels_to_pil
from images.grid import paired_grid

SHOWN = 32  # pairs in the image grid "reconstructions"
COLUMNS = 8
WORST = 10  # pairs in the image grid "worst"
NAMES = ("reconstructions", "worst")


@dataclass(frozen=True)
class Pair:
    """An image and its reconstruction.

    Attributes:
        psnr: in dB.
        index: position in the reference, from 0.
        file: "" where there is none.
    """

    psnr: float
    index: int
    file: str
    image: Image.Image
    reconstruction: Image.Image


class Gallery:
    """Keeps SHOWN pairs evenly spread over the reference, and the WORST pairs by PSNR.

    Args:
        count: number of reference images.
    """

    def __init__(self, count: int) -> None:
        self.wanted = {round(i * (count - 1) / (SHOWN - 1)) for i in range(SHOWN)}
        self.seen = 0
        self.shown: list[Pair] = []
        self.worst: list[Pair] = []

    def add(self, pixels: Tensor, restored: Tensor, psnr: Tensor, files: Sequence[str]) -> None:
        """Look at the next batch and keep what belongs into the gallery.

        Args:
            pixels, restored: uint8 `(B, C, S, S)`, reference images and their reconstructions.
            psnr: `(B,)` in dB.
            files: B names, "" where there is none.
        """
        for row, decibels in enumerate(psnr.tolist()):
            shown = self.seen in self.wanted
            if shown or len(self.worst) < WORST or decibels < self.worst[-1].psnr:
                pair = Pair(decibels, self.seen, files[row], *pixels_to_pil(torch.stack([pixels[row], restored[row]])))
                if shown:
                    self.shown.append(pair)
                self.worst = sorted([*self.worst, pair], key=lambda pair: (pair.psnr, pair.index))[:WORST]
            self.seen += 1

    def image_grids(self) -> dict[str, Image.Image]:
        """The image grids by their NAMES; in each, every image is above its reconstruction."""
        return {
            name: paired_grid([pair.image for pair in pairs], [pair.reconstruction for pair in pairs], columns)
            for name, pairs, columns in zip(NAMES, (self.shown, self.worst), (COLUMNS, WORST), strict=True)
        }

    def worst_entries(self) -> list[dict[str, object]]:
        """The worst pairs for the report: index in the reference from 0, PSNR, and the file where there is one."""
        return [
            {"index": pair.index, "psnr_db": pair.psnr} | ({"file": pair.file} if pair.file else {})
            for pair in self.worst
        ]
