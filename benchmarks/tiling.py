"""Measure the seams of tiled encoding and decoding against the same image in one piece.

    python benchmarks/tiling.py --model runs/emoji64-f4 --images data/emoji64/val [--size 1024] [--tile 256]

The test image is a mosaic of the images of a folder, `--size` pixels a side. The step at the tiles' borders is the mean
absolute difference of neighbouring pixels across a border over that of pixels near the border: 1.00 means no seam.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.errors import ArgumentParser, run_cli
from common.files import write_text
from common.metrics import psnr
from images.convert import to_pil
from images.dataset import load_folder
from images.io import save_png
from vq.tokenizer import Tokenizer

SIDE = 80  # pixels of an image in the mosaic: borders between images are not borders between tiles


@dataclass(frozen=True)
class Row:
    """One overlap. The fraction of codes that differ from those of the image in one piece; differences in grey levels."""

    overlap: int | str
    psnr_db: float
    step_at_borders: float
    codes_changed: float = 0.0
    mean_difference: float = 0.0  # of the decoded codes of the whole image
    largest_difference: float = 0.0
    seconds: float | None = None


def mosaic(folder: Path, size: int, channels: int) -> Tensor:
    """An image `(1, C, size, size)` in [-1, 1] made of the folder's images, SIDE pixels each."""
    count = -(-size // SIDE)
    images = load_folder(folder, SIDE, channels)
    chosen = torch.stack([images[index * 7 % len(images)][0] for index in range(count * count)])
    rows = chosen.view(count, count, channels, SIDE, SIDE).permute(2, 0, 3, 1, 4)
    return rows.reshape(1, channels, count * SIDE, count * SIDE)[..., :size, :size].contiguous()


def step_at_borders(images: Tensor, tile: int) -> float:
    """Mean |difference| across the tiles' borders over that across the three lines on each side of them."""
    steps = [images.diff(dim=dim).abs().mean((0, 1, 5 - dim)) for dim in (2, 3)]  # (size - 1,) for rows and for columns
    borders = torch.arange(tile - 1, len(steps[0]), tile)
    near = torch.cat([borders + offset for offset in (-4, -3, -2, 2, 3, 4)])
    across, around = (torch.stack([step[lines].mean() for step in steps]).sum() for lines in (borders, near))
    return (across / around).item()


def main(argv: Sequence[str]) -> None:
    parser = ArgumentParser(prog="tiling.py", description="Seams of a tokenizer's tiles.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 16, 32, 64, 128])
    parser.add_argument("--out", type=Path, help="a folder for the images and the figures")
    args = parser.parse_args(argv)
    tokenizer = Tokenizer.from_pretrained(args.model)
    images = mosaic(args.images, args.size, tokenizer.channels)
    whole_codes = tokenizer.encode(images)
    whole = tokenizer.decode(whole_codes)
    rows = [Row("whole", psnr(whole, images).item(), step_at_borders(whole, args.tile))]
    results = {"whole": whole}
    for overlap in args.overlaps:
        codes = tokenizer.encode(images, args.tile, overlap)
        start = time.perf_counter()
        tiled = tokenizer.decode(codes, None, args.tile, overlap)
        difference = (tokenizer.decode(whole_codes, None, args.tile, overlap) - whole).abs() * 127.5
        seconds = (time.perf_counter() - start) / 2
        rows.append(
            Row(
                overlap,
                psnr(tiled, images).item(),
                step_at_borders(tiled, args.tile),
                (codes != whole_codes).double().mean().item(),
                difference.mean().item(),
                difference.max().item(),
                seconds,
            )
        )
        results[f"tiled-{overlap}"] = tiled
    print("| overlap | PSNR, dB | step at borders | codes changed | decoding alone: mean, largest difference |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.overlap} | {row.psnr_db:.2f} | {row.step_at_borders:.3f} | {row.codes_changed:.4f} | "
            f"{row.mean_difference:.2f}, {row.largest_difference:.0f} |"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if args.out:
        for name, image in results.items():
            save_png(to_pil(image)[0], args.out / f"{name}.png")
        write_text(args.out / "tiling.json", json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_cli(main))
