"""Seams: how far a picture that went through in tiles is from the same picture in one piece, and at the tiles' borders.

python benchmarks/tiling.py --model runs/emoji64-f4 --pictures data/emoji64/val [--size 1024] [--tile 256]

The picture is a mosaic of the folder's pictures, `--size` pixels a side. "Step at borders" is the mean change of brightness
from one pixel to the next across the tiles' borders, over the same across the pixels beside them: 1.00 is no seam.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.errors import ArgumentParser, run_cli
from common.metrics import psnr
from images.convert import to_pil
from images.dataset import load_folder
from images.io import save_png
from vq.tokenizer import Tokenizer


def mosaic(folder: Path, size: int, channels: int) -> Tensor:
    """Pictures `(1, C, size, size)` of the folder, 80 pixels each, so that their borders are not the tiles'."""
    side = -(-size // 80)
    pixels = load_folder(folder, 80, channels).pixels
    chosen = pixels[torch.arange(side * side) * 7 % len(pixels)].float() / 127.5 - 1
    rows = chosen.view(side, side, channels, 80, 80).permute(2, 0, 3, 1, 4)
    return rows.reshape(1, channels, side * 80, side * 80)[..., :size, :size].contiguous()


def step_at_borders(images: Tensor, tile: int) -> float:
    """Mean |difference| across the tiles' borders over that across the four lines on both sides of them."""
    steps = [images.diff(dim=dim).abs().mean((0, 1, 5 - dim)) for dim in (2, 3)]  # (size - 1,) for rows and for columns
    at = torch.arange(tile - 1, len(steps[0]), tile)
    beside = torch.cat([at + offset for offset in (-4, -3, -2, 2, 3, 4)])
    return (sum(s[at].mean() for s in steps) / sum(s[beside].mean() for s in steps)).item()


def main(argv: Sequence[str]) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 16, 32, 64, 128])
    parser.add_argument("--out", type=Path, help="a folder for the pictures and the figures")
    args = parser.parse_args(argv)
    tokenizer = Tokenizer.from_pretrained(args.model)
    images = mosaic(args.pictures, args.size, tokenizer.channels)
    whole_codes = tokenizer.encode(images)
    whole = tokenizer.decode(whole_codes)
    rows = [
        {
            "overlap": "whole",
            "psnr_db": psnr(whole, images).item(),
            "step_at_borders": step_at_borders(whole, args.tile),
        }
    ]
    rows[0] |= {"codes_changed": 0.0, "mean_difference": 0.0, "largest_difference": 0.0}
    for overlap in args.overlaps:
        codes = tokenizer.encode(images, args.tile, overlap)
        start = time.perf_counter()
        tiled = tokenizer.decode(codes, None, args.tile, overlap)
        same_codes = tokenizer.decode(whole_codes, None, args.tile, overlap)
        rows.append(
            {
                "overlap": overlap,
                "psnr_db": psnr(tiled, images).item(),
                "step_at_borders": step_at_borders(tiled, args.tile),
                "codes_changed": (codes != whole_codes).double().mean().item(),
                "mean_difference": (same_codes - whole).abs().mean().item() * 127.5,
                "largest_difference": (same_codes - whole).abs().max().item() * 127.5,
                "seconds": (time.perf_counter() - start) / 2,
            }
        )
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            save_png(to_pil(tiled)[0], args.out / f"tiled-{overlap}.png")
    print("| overlap | PSNR, dB | step at borders | codes changed | decoded alone: mean, largest grey levels off |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['overlap']} | {row['psnr_db']:.2f} | {row['step_at_borders']:.3f} | {row['codes_changed']:.4f} | "
            f"{row['mean_difference']:.2f}, {row['largest_difference']:.0f} |"
        )
    print(f"largest process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if args.out:
        save_png(to_pil(whole)[0], args.out / "whole.png")
        (args.out / "tiling.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_cli(main))
