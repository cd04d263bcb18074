"""Compare two ways to sample code grids larger than the trained one: sliding windows and rotary extrapolation.

    python benchmarks/large_grids.py --model models/emoji64 --reference IMAGES/val --out docs/large_grids.png

Samples `--n` images twice as wide as the model's, cuts each into two halves, and takes the Frechet distance over
EfficientNet-lite0 of the halves to the reference images. Images of the model's own size are measured as well. The seam is
the mean absolute difference of the two middle columns of pixels over the mean difference of all neighbouring columns.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.image_features import features_of
from common.errors import ArgumentParser, run_cli
from common.features import EfficientNetFeatures
from common.metrics import frechet_distance
from diffusion.pipeline import ImageGenerator
from images.convert import to_tensor
from images.dataset import load_folder
from images.grid import image_grid
from images.io import save_png

OWN_SIZE = "own size"


def seam(images: Sequence[Image.Image]) -> float:
    """Difference of the two middle columns over the mean difference of neighbouring columns; about 1 without a seam."""
    pixels = np.stack([np.asarray(image, dtype=np.float64) for image in images])
    differences = np.abs(np.diff(pixels.reshape(*pixels.shape[:3], -1), axis=2)).mean((0, 1, 3))
    return float(differences[len(differences) // 2] / differences.mean())


def main(argv: Sequence[str]) -> None:
    parser = ArgumentParser(prog="large_grids.py", description="Code grids larger than trained: sliding and rotary.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--reference", required=True, help="a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write: one row a method")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=32)
    args = parser.parse_args(argv)
    generator = ImageGenerator.from_pretrained(args.model)
    size, channels = generator.tokenizer.image_size, generator.tokenizer.channels
    labels = list(range(len(generator.class_names))) or None
    extractor = EfficientNetFeatures()
    images = load_folder(args.reference, size, channels)
    real = features_of(extractor, torch.stack([images[index][0] for index in range(len(images))]))
    shown: list[Image.Image] = []
    for method in (OWN_SIZE, "sliding", "rotary"):
        width = size if method == OWN_SIZE else 2 * size
        count = args.n * 2 * size // width  # the same number of parts
        settings = generator.settings(
            num_inference_steps=args.steps,
            guidance_scale=args.guidance,
            sampler="tweedie",
            large_grids="sliding" if method == OWN_SIZE else method,
        )
        sampled = generator.generate(count, labels, width=width, seed=1, settings=settings)
        parts = [image.crop((left, 0, left + size, size)) for image in sampled for left in range(0, width, size)]
        tensors = torch.stack([to_tensor(part, channels) for part in parts])
        distance = frechet_distance(real, features_of(extractor, tensors))
        if method == OWN_SIZE:
            print(f"{method:10} Frechet distance of {len(parts)} parts {distance:.1f}")
            shown += [image_grid(sampled[index : index + 2], 2, 0) for index in range(0, 12, 2)]
        else:
            print(f"{method:10} Frechet distance of {len(parts)} parts {distance:.1f}, seam {seam(sampled):.2f}")
            shown += sampled[:6]
    save_png(image_grid(shown, 6), args.out)
    print(args.out)


if __name__ == "__main__":
    sys.exit(run_cli(main))
