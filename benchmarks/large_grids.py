"""Grids larger than trained, by sliding windows and by rotary extrapolation: how far their parts are from real pictures.

    python benchmarks/large_grids.py --model models/emoji64 --reference PICTURES/val --out docs/large_grids.png

Draws `--n` pictures twice as wide as the model's, cuts each into its two halves, and takes the Frechet distance over
EfficientNet-lite0 of the halves to the reference's pictures; the model's own size stands beside them. A seam is the mean
step in colour between the two middle columns of pixels, over the mean step between all columns.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.features import EfficientNetFeatures
from common.metrics import frechet_distance
from diffusion.pipeline import ImageGenerator
from images.convert import to_tensor
from images.dataset import load_folder
from images.grid import image_grid
from images.io import save_png


def features(extractor: EfficientNetFeatures, pictures: list[Image.Image], channels: int) -> torch.Tensor:
    batches = torch.stack([to_tensor(picture, channels) for picture in pictures]).split(64)
    with torch.no_grad():
        return torch.cat([extractor(batch) for batch in batches]).double()


def seam(pictures: list[Image.Image]) -> float:
    """Step in colour at the middle over the mean step; about 1 where nothing marks the middle."""
    pixels = np.stack([np.asarray(picture, dtype=np.float64) for picture in pictures])
    steps = np.abs(np.diff(pixels.reshape(*pixels.shape[:3], -1), axis=2)).mean((0, 1, 3))
    return float(steps[len(steps) // 2] / steps.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--reference", required=True, help="a folder of pictures")
    parser.add_argument("--out", type=Path, required=True, help="a PNG: one row a way")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=32)
    args = parser.parse_args()
    generator = ImageGenerator.from_pretrained(args.model)
    size, channels = generator.tokenizer.image_size, generator.tokenizer.channels
    extractor = EfficientNetFeatures()
    reference = load_folder(args.reference, size, channels)
    real = features(
        extractor, [Image.fromarray(p.permute(1, 2, 0).squeeze(-1).numpy()) for p in reference.pixels], channels
    )
    rows: list[Image.Image] = []
    for name, width in (("own size", size), ("sliding", 2 * size), ("rotary", 2 * size)):
        ways = {"large_grids": name} if width > size else {}
        count = args.n if width > size else 2 * args.n  # as many parts
        pictures = generator.generate(
            count,
            list(range(len(generator.class_names))) or None,
            args.steps,
            args.guidance,
            seed=1,
            width=width,
            **ways,
        )
        parts = [picture.crop((left, 0, left + size, size)) for picture in pictures for left in range(0, width, size)]
        distance = frechet_distance(real, features(extractor, parts, channels))
        middle = f", seam {seam(pictures):.2f}" if width > size else ""
        print(f"{name:10} Frechet distance of {len(parts)} parts {distance:.1f}{middle}")
        rows += pictures[: 12 * size // width] if width == size else pictures[:6]
        if width == size:
            rows = [image_grid(rows[i : i + 2], 2, 0) for i in range(0, 12, 2)]
    save_png(image_grid(rows, 6), args.out)
    print(args.out)


if __name__ == "__main__":
    main()
