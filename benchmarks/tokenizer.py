"""Compare the speed of our tokenizer with that of diffusers' VQModel of the same size; a ratio above 1 means ours is faster.

    pip install diffusers
    python benchmarks/tokenizer.py --out tokenizer-speed.json
    python benchmarks/tokenizer.py --dtype bfloat16 --profile

All models have the same channels, the same blocks a level, no attention, and 1024 codes of 8 dimensions. `amused` has
exactly the network of VQModel, so its ratio compares implementations; `vqgan+` is our default, so its ratio also compares
architectures. The models run in turn in several rounds, and each ratio is taken within a round, so that a machine that
slows down slows all of them. Each model keeps its own memory format: channels_last for ours, contiguous for VQModel. Images
are noise and parameters are random, because the time does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.step_profile import profile_table, time_by_kind
from benchmarks.tokenizer_models import NORM_GROUPS, Model, Shape, build_diffusers, build_ours, shape_of
from common.errors import ArgumentParser, UserError, run_cli
from common.files import write_text

ARCHITECTURES = ("vqgan+", "amused")
DIFFUSERS = "diffusers"
OPERATIONS = ("encode", "decode", "train")


@dataclass(frozen=True)
class Row:
    """One line of the table: images a second of both sides (medians) and the ratio of each round."""

    size: int
    batch: int
    operation: str
    architecture: str
    ours_images_per_second: float
    diffusers_images_per_second: float
    ratio: float
    ratios: list[float]


@dataclass(frozen=True)
class Result:
    """The rows of one image size, parameters by model, and milliseconds by model and kind of operation."""

    shape: Shape
    parameters: dict[str, int]
    rows: list[Row]
    profile: dict[str, dict[str, float]] = field(default_factory=dict)


def operations_of(model: Model, images: Tensor, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """The operations as functions without arguments: encode and decode for eval mode, train for train mode."""
    optimizer = torch.optim.AdamW(model.network.parameters(), 1e-4, fused=True)
    precision = torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32)
    model.network.eval()
    with precision:
        codes = model.encode(images)

    def encode() -> Tensor:
        with precision:
            return model.encode(images)

    def decode() -> Tensor:
        with precision:
            return model.decode(codes)

    def train() -> Tensor:
        with precision:
            reconstruction, quantizer_loss = model.forward(images)
        loss = F.l1_loss(reconstruction.float(), images) + quantizer_loss
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return dict(zip(OPERATIONS, (encode, decode, train), strict=True))


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_per_call(run: Callable[[], object], calls: int, device: torch.device) -> float:
    """Mean over `calls` calls."""
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait(device)
    return (time.perf_counter() - start) / calls


def compare(
    runs: Mapping[str, Callable[[], object]], rounds: int, least: float, device: torch.device
) -> dict[str, list[float]]:
    """Seconds a call of each function, one number a round.

    All functions make the same number of calls a round, so many that the fastest takes `least` seconds. The order is
    reversed in every other round.
    """
    for run in runs.values():
        run()  # warm-up
    fastest = min(seconds_per_call(run, 1, device) for run in runs.values())
    calls = max(1, math.ceil(least / fastest))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds):
        for name in list(runs) if index % 2 == 0 else list(runs)[::-1]:
            times[name].append(seconds_per_call(runs[name], calls, device))
    return times


def measure(size: int, args: argparse.Namespace, device: torch.device) -> Result:
    """Compare all operations at one image size. Raises UserError where a training step gives a loss that is not finite."""
    shape = shape_of(size, args.width)
    batch = args.batch or (16 if size < 128 else 4)
    torch.manual_seed(0)
    models = {name: build_ours(name, shape) for name in ARCHITECTURES} | {DIFFUSERS: build_diffusers(shape)}
    images = (torch.rand(batch, 3, size, size) * 2 - 1).to(device)
    runs = {}
    for name, model in models.items():
        model.network.to(device)
        runs[name] = operations_of(model, images, getattr(torch, args.dtype))
    rows = []
    for operation in OPERATIONS:
        for model in models.values():
            model.network.train(operation == "train")
        times = compare({name: own[operation] for name, own in runs.items()}, args.pairs, args.seconds, device)
        for name in ARCHITECTURES:
            ratios = [other / own for own, other in zip(times[name], times[DIFFUSERS], strict=True)]
            ours, theirs = (batch / statistics.median(times[side]) for side in (name, DIFFUSERS))
            rows.append(Row(size, batch, operation, name, ours, theirs, statistics.median(ratios), ratios))
    for name, own in runs.items():
        if not math.isfinite(own["train"]().item()):
            raise UserError(f"{name} at {size} pixels has a loss that is not finite, so its times mean nothing")
    result = Result(shape, {name: model.parameter_count() for name, model in models.items()}, rows)
    if args.profile:
        for name, model in models.items():
            result.profile[name] = time_by_kind(runs[name]["train"], model.quantizer, args.pairs, device)
    return result


def table(rows: Sequence[Row]) -> str:
    """The ratios as Markdown."""
    lines = [
        "| pixels | batch | operation | ours | ours, images/s | diffusers, images/s | ratio | lowest to highest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.size} | {row.batch} | {row.operation} | {row.architecture} | {row.ours_images_per_second:.3g} "
        f"| {row.diffusers_images_per_second:.3g} | {row.ratio:.2f} | {min(row.ratios):.2f} to {max(row.ratios):.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options, checked. Raises UserError."""
    parser = ArgumentParser(prog="tokenizer.py", description="Speed of our tokenizer against diffusers' VQModel.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="pixels a side (default 64 256)")
    parser.add_argument("--width", type=int, default=64, help="channels at full size, a multiple of 32 (default 64)")
    parser.add_argument("--batch", type=int, help="images (default 16, from 128 pixels on 4)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16 under autocast")
    parser.add_argument("--pairs", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="least time of a model in a round (default 0.5)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--profile", action="store_true", help="also print the time of a training step by operation")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    args = parser.parse_args(argv)
    if min(args.pairs, args.threads or 1, args.batch or 1, *args.sizes) < 1:
        raise UserError("--sizes, --pairs, --threads and --batch must be at least 1")
    if args.width < 1 or args.width % NORM_GROUPS:
        raise UserError(f"--width must be a multiple of {NORM_GROUPS}, the norm groups of VQModel, got {args.width}")
    for size in args.sizes:
        if size % (step := shape_of(size, args.width).downsample):
            raise UserError(f"--sizes: {size} is not a multiple of {step}, the pixels of a code at this size")
    return args


def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    results = [measure(size, args, device) for size in args.sizes]
    rows = [row for result in results for row in result.rows]
    versions = {name: version(name) for name in ("torch", "diffusers")}
    for result in results:
        counts = ", ".join(f"{name} {count:,}" for name, count in result.parameters.items())
        shape = result.shape
        print(f"{shape.size} pixels, f{shape.downsample}, channels {list(shape.widths)}: {counts} parameters")
    print(f"{args.dtype}, {device}, {torch.get_num_threads()} threads, diffusers {versions['diffusers']}\n")
    print(table(rows))
    for result in results:
        if result.profile:
            print(f"one training step at {result.shape.size} pixels\n\n{profile_table(result.profile)}")
    if args.out:
        cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        report = {
            "settings": {name: value for name, value in vars(args).items() if name != "out"},
            "threads": torch.get_num_threads(),
            "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
            "versions": versions,
            "sizes": [asdict(result) for result in results],
        }
        write_text(args.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(run_cli(main))
