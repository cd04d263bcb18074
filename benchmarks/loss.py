"""One training step of the output head and its loss: plain cross entropy over all positions against masked positions in
chunks.

    python benchmarks/loss.py

B = 32 pictures of 16 x 16 codes, width 768, mask rates as the cosine schedule draws them. Both sides run in turn, in
several pairs; each side's peak memory is taken in a process of its own, above what its inputs hold.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion.head import head_cross_entropy
from diffusion.noise import Cosine, stratified_times

BATCH, POSITIONS, WIDTH = 32, 256, 768


def inputs(vocabulary: int, device: str, dtype: torch.dtype) -> tuple[Tensor, nn.Linear, Tensor, Tensor]:
    """Features, head, targets and weights (0 where a position is visible)."""
    generator = torch.Generator().manual_seed(0)
    sigma, _ = Cosine()(stratified_times(BATCH, generator))
    masked = torch.rand(BATCH, POSITIONS, generator=generator) < -torch.expm1(-sigma)[:, None]
    features = torch.randn(BATCH, POSITIONS, WIDTH, generator=generator).to(device, dtype).requires_grad_()
    targets = torch.randint(vocabulary, (BATCH, POSITIONS), generator=generator).to(device)
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, vocabulary).to(device)
    return features, head, targets, (masked / masked.sum()).to(device)


def plain(features: Tensor, head: nn.Linear, targets: Tensor, weights: Tensor) -> Tensor:
    """cross_entropy(head(x)) over all positions, then the weights."""
    with torch.autocast(features.device.type, torch.bfloat16, enabled=features.dtype == torch.bfloat16):
        logits = head(features)
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (weights.flatten() * losses).sum()


SIDES = {"plain": plain, "chunked": head_cross_entropy}


def step(side: str, data: tuple[Tensor, nn.Linear, Tensor, Tensor]) -> Tensor:
    """Forward and backward; gradients are dropped afterwards."""
    features, head, _, _ = data
    loss = SIDES[side](*data)
    loss.backward()
    features.grad = None
    head.zero_grad(set_to_none=True)
    if features.is_cuda:
        torch.cuda.synchronize()
    return loss.detach()


def peak_memory(side: str, vocabulary: int, device: str, dtype: torch.dtype) -> float:
    """MB above what stands before the step, gradients included."""
    data = inputs(vocabulary, device, dtype)
    if device == "cuda":
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(side, data)
        return (torch.cuda.max_memory_allocated() - base) / 1e6
    small = inputs(8, device, dtype)
    step(side, small)  # the library's own workspaces
    done, seen = threading.Event(), [0]

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def watch() -> None:
        while not done.is_set():
            seen[0] = max(seen[0], resident())
            time.sleep(0.001)

    base = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    step(side, data)
    done.set()
    watcher.join()
    return (seen[0] - base) / 1e6


def main() -> None:
    """Print one JSON object a vocabulary size."""
    parser = argparse.ArgumentParser(description="Head and loss: chunked against plain.")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[16384, 1024])
    parser.add_argument("--pairs", type=int, default=3, help="timed pairs (default 3)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the features")
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, args.dtype)
    if args.peak:
        print(peak_memory(args.peak, args.vocabulary[0], device, dtype))
        return
    for vocabulary in args.vocabulary:
        data = inputs(vocabulary, device, dtype)
        values = {side: step(side, data).item() for side in SIDES}  # also warms up
        times: dict[str, list[float]] = {side: [] for side in SIDES}
        for pair in range(args.pairs):
            for side in (list(SIDES), list(SIDES)[::-1])[pair % 2]:
                start = time.perf_counter()
                step(side, data)
                times[side].append(time.perf_counter() - start)
        ratios = sorted(b / a for a, b in zip(times["plain"], times["chunked"], strict=True))
        again = [sys.executable, __file__, "--dtype", args.dtype, "--vocabulary", str(vocabulary), "--peak"]
        peak = {side: float(subprocess.run([*again, side], capture_output=True, check=True).stdout) for side in SIDES}
        print(json.dumps({
            "vocabulary": vocabulary, "dtype": args.dtype, "device": device, "machine": platform.machine(),
            "masked_share": round((data[3] > 0).float().mean().item(), 3),
            "loss": values, "seconds": {side: round(min(taken), 3) for side, taken in times.items()},
            "time_ratio_median": round(ratios[len(ratios) // 2], 3),
            "peak_mb": {side: round(value) for side, value in peak.items()},
            "memory_ratio": round(peak["chunked"] / peak["plain"], 3),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
