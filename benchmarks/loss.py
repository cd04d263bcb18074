"""Compare the chunked output head with plain cross entropy: time and peak memory of one training step of head and loss.

    python benchmarks/loss.py

Batches of 32 images of 16 x 16 codes, features of 768 channels, mask rates of the cosine schedule. Plain cross entropy is
taken over all positions, the chunked one over the masked positions. Both run in turn, in several pairs. The peak memory is
measured in a process of its own for each, above what its inputs take.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.errors import ArgumentParser, run_cli
from diffusion.head import head_cross_entropy
from diffusion.noise import Cosine, stratified_times

BATCH, POSITIONS, WIDTH = 32, 256, 768


class Inputs(NamedTuple):
    """Features `(B, N, D)`, the head, targets `(B, N)` and weights `(B, N)`, 0 at visible positions."""

    features: Tensor
    head: nn.Linear
    targets: Tensor
    weights: Tensor


def make_inputs(vocabulary: int, device: str, dtype: torch.dtype) -> Inputs:
    """Random inputs, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    sigma, _ = Cosine()(stratified_times(BATCH, generator))
    masked = torch.rand(BATCH, POSITIONS, generator=generator) < -torch.expm1(-sigma)[:, None]
    features = torch.randn(BATCH, POSITIONS, WIDTH, generator=generator).to(device, dtype).requires_grad_()
    targets = torch.randint(vocabulary, (BATCH, POSITIONS), generator=generator).to(device)
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, vocabulary).to(device)
    return Inputs(features, head, targets, (masked / masked.sum()).to(device))


def plain(features: Tensor, head: nn.Linear, targets: Tensor, weights: Tensor) -> Tensor:
    """cross_entropy(head(x)) over all positions, times the weights."""
    with torch.autocast(features.device.type, torch.bfloat16, enabled=features.dtype == torch.bfloat16):
        logits = head(features)
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    loss: Tensor = (weights.flatten() * losses).sum()
    return loss


LOSSES = {"plain": plain, "chunked": head_cross_entropy}


def step(name: str, inputs: Inputs) -> Tensor:
    """Run forward and backward, drop the gradients and return the loss."""
    loss = LOSSES[name](*inputs)
    torch.autograd.backward(loss)
    inputs.features.grad = None
    inputs.head.zero_grad(set_to_none=True)
    if inputs.features.is_cuda:
        torch.cuda.synchronize()
    return loss.detach()


def resident_bytes() -> int:
    """The memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def peak_memory(name: str, vocabulary: int, device: str, dtype: torch.dtype) -> float:
    """MB that a step takes above its inputs, gradients included. Call it once in a process."""
    inputs = make_inputs(vocabulary, device, dtype)
    if device == "cuda":
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(name, inputs)
        return (torch.cuda.max_memory_allocated() - base) / 1e6
    step(name, make_inputs(8, device, dtype))  # allocates the library's own workspaces
    done, peak = threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident_bytes())
            time.sleep(0.001)

    base = resident_bytes()
    watcher = threading.Thread(target=watch)
    watcher.start()
    step(name, inputs)
    done.set()
    watcher.join()
    return (peak - base) / 1e6


def compare(vocabulary: int, device: str, args: argparse.Namespace) -> dict[str, object]:
    """Losses, times and peak memory of both, and their ratios (chunked over plain)."""
    inputs = make_inputs(vocabulary, device, getattr(torch, args.dtype))
    losses = {name: step(name, inputs).item() for name in LOSSES}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in LOSSES}
    for pair in range(args.pairs):
        for name in list(LOSSES) if pair % 2 == 0 else list(LOSSES)[::-1]:
            start = time.perf_counter()
            step(name, inputs)
            times[name].append(time.perf_counter() - start)
    ratios = [chunked / whole for whole, chunked in zip(times["plain"], times["chunked"], strict=True)]
    command = [sys.executable, __file__, "--dtype", args.dtype, "--vocabulary", str(vocabulary), "--peak"]
    peak = {name: float(subprocess.run([*command, name], capture_output=True, check=True).stdout) for name in LOSSES}
    return {
        "vocabulary": vocabulary, "dtype": args.dtype, "device": device, "machine": platform.machine(),
        "masked_fraction": round((inputs.weights > 0).float().mean().item(), 3),
        "loss": losses, "seconds": {name: round(min(taken), 3) for name, taken in times.items()},
        "time_ratio_median": round(statistics.median_high(ratios), 3),
        "peak_mb": {name: round(value) for name, value in peak.items()},
        "memory_ratio": round(peak["chunked"] / peak["plain"], 3),
    }  # fmt: skip


def main(argv: Sequence[str]) -> None:
    parser = ArgumentParser(prog="loss.py", description="Time and memory of the chunked output head.")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[16384, 1024])
    parser.add_argument("--pairs", type=int, default=3, help="timed pairs (default 3)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the features")
    parser.add_argument("--peak", choices=LOSSES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.peak:
        print(peak_memory(args.peak, args.vocabulary[0], device, getattr(torch, args.dtype)))
        return
    for vocabulary in args.vocabulary:
        print(json.dumps(compare(vocabulary, device, args)))


if __name__ == "__main__":
    sys.exit(run_cli(main))
