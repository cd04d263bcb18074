"""Pictures a second of our tokenizer over those of diffusers' VQModel of the same size; above 1 is better.

    pip install diffusers
    python benchmarks/tokenizer.py --out tokenizer-speed.json
    python benchmarks/tokenizer.py --dtype bfloat16 --profile

Both sides have the same channels, the same blocks a level, no attention, 1024 codes of 8 numbers. `amused` is VQModel's
network to the last weight, so its ratio is what our implementation does; `vqgan+` is our default, whose ratio is also what
the architecture does. The sides run in turn, in several rounds, and a ratio is taken within a round, so that a machine
that slows down slows both. Each side keeps the memory format that it comes with: ours converts itself to channels_last,
theirs is contiguous. Pictures are noise and weights untrained, which the time does not depend on.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.errors import ArgumentParser, UserError, run_cli
from common.files import write_text
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig

ARCHITECTURES = ("vqgan+", "amused")
THEIRS = "diffusers"
OPERATIONS = ("encode", "decode", "train")
# Residual blocks a level. Two, because VQModel has two in the middle whatever it has elsewhere; ours has as many everywhere.
LAYERS = 2
CODES, CODE_DIM = 1024, 8
GROUPS = 32  # of group normalisation in VQModel and amused

# Where the time of an operation goes: the first of these that its name holds; what none holds is "other".
KINDS = {
    "convolution": ("conv", "slow_conv", "cudnn"),
    "group norm": ("group_norm", "GroupNorm"),
    "SiLU": ("silu",),
    "copies and formats": ("copy_", "clone", "contiguous", "aten::to", "constant_pad", "Memcpy", "reorder"),
}
QUANTIZER, OPTIMIZER, OTHER = "quantizer", "optimizer", "other"


@dataclass(frozen=True)
class Shape:
    """What both sides are built to: pictures of `size` pixels a side, `widths` channels a level, full size first."""

    size: int
    widths: tuple[int, ...]

    @property
    def downsample(self) -> int:
        """Pixels a code, along each side."""
        return 2 ** (len(self.widths) - 1)


def shape_of(size: int, width: int) -> Shape:
    """f4 for small pictures, f16 from 128 pixels on."""
    multipliers = (1, 2, 4) if size < 128 else (1, 1, 2, 2, 4)
    return Shape(size, tuple(width * multiplier for multiplier in multipliers))


@dataclass
class Side:
    """One model and the three things that are timed.

    encode: images `(B, 3, S, S)` to codes; decode: those codes to images in [-1, 1]; forward: images to their
    reconstruction and the quantizer's weighted loss, a scalar.
    """

    model: nn.Module
    quantizer: nn.Module
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]

    def network_parameters(self) -> int:
        """Number of weights without those of the quantizer, which theirs learns by gradient and ours by moving averages."""
        own = {id(parameter) for parameter in self.quantizer.parameters()}
        return sum(parameter.numel() for parameter in self.model.parameters() if id(parameter) not in own)


def build_ours(architecture: str, shape: Shape) -> Side:
    """Our tokenizer as it would be trained; k-means is left out because it runs once in a training."""
    config = TokenizerConfig(
        architecture=architecture,
        downsample=shape.downsample,
        width=shape.widths[0],
        multipliers=[width // shape.widths[0] for width in shape.widths],
        blocks=LAYERS,
        quantizer=QuantizerConfig(codebook_size=CODES, codebook_dim=CODE_DIM, kmeans_init=False),
    )
    model = Tokenizer(config, shape.size, channels=3)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        output = model(images)
        return output.reconstruction, torch.stack(list(output.quantizer_losses.values())).sum()

    return Side(model, model.quantizer, model.encode, model.decode, forward)


def build_theirs(shape: Shape) -> Side:
    """diffusers' VQModel, encoding and decoding as its aMUSEd pipeline does. Raises UserError where it is missing."""
    try:
        from diffusers import VQModel
    except ImportError as error:
        raise UserError("diffusers is not installed, and is what this compares with: pip install diffusers") from error
    model: Any = VQModel(
        block_out_channels=shape.widths,
        down_block_types=("DownEncoderBlock2D",) * len(shape.widths),
        up_block_types=("UpDecoderBlock2D",) * len(shape.widths),
        layers_per_block=LAYERS,
        latent_channels=CODE_DIM,
        sample_size=shape.size,
        num_vq_embeddings=CODES,
        norm_num_groups=GROUPS,
        vq_embed_dim=CODE_DIM,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    side = shape.size // shape.downsample

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        return model.quantize(model.encode(images).latents)[2][2].view(len(images), side, side)

    @torch.no_grad()
    def decode(codes: Tensor) -> Tensor:
        latents = (*codes.shape, CODE_DIM)
        return model.decode(codes, force_not_quantize=True, shape=latents).sample.float().clamp(-1, 1)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        output = model(images)
        return output.sample, output.commit_loss

    return Side(model, model.quantize, encode, decode, forward)


def runs_of(side: Side, images: Tensor, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    """The three operations as functions without arguments. encode and decode are for eval mode, train for train mode."""
    optimizer = torch.optim.AdamW(side.model.parameters(), 1e-4, fused=True)
    precision = torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32)
    side.model.eval()
    with precision:
        codes = side.encode(images)

    def encode() -> Tensor:
        with precision:
            return side.encode(images)

    def decode() -> Tensor:
        with precision:
            return side.decode(codes)

    def train() -> Tensor:
        with precision:
            reconstruction, quantizer_loss = side.forward(images)
        loss = F.l1_loss(reconstruction.float(), images) + quantizer_loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return {"encode": encode, "decode": decode, "train": train}


def seconds_a_call(run: Callable[[], Any], calls: int, device: torch.device) -> float:
    """Mean over `calls` calls."""
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait(device)
    return (time.perf_counter() - start) / calls


def wait(device: torch.device) -> None:
    """Let the device finish what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(
    runs: dict[str, Callable[[], Any]], pairs: int, least: float, device: torch.device
) -> dict[str, list[float]]:
    """Seconds a call of every side, one number a round. All make the same number of calls a round, enough to last `least` s."""
    for run in runs.values():
        run()  # memory is fetched, kernels are chosen
    fastest = min(seconds_a_call(run, 1, device) for run in runs.values())
    calls = max(1, math.ceil(least / fastest))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for pair in range(pairs):
        for name in (list(runs), list(runs)[::-1])[pair % 2]:
            times[name].append(seconds_a_call(runs[name], calls, device))
    return times


def kind_of(event: Any) -> str:
    """The row of the profile that an operation's own time belongs to."""
    parent = event
    while parent is not None:
        if parent.name == QUANTIZER:
            return QUANTIZER
        if parent.name.startswith("Optimizer."):
            return OPTIMIZER
        parent = parent.cpu_parent
    return next((kind for kind, parts in KINDS.items() if any(part in event.name for part in parts)), OTHER)


def where_the_time_goes(side: Side, run: Callable[[], Any], calls: int, device: torch.device) -> dict[str, float]:
    """Milliseconds a call by kind of operation: of the processor, or on CUDA of the device.

    Forward and backward count alike, but for the quantizer, whose backward pass is small and lies in "other". On a processor
    oneDNN converts formats within its convolutions, which then count as convolution.
    """
    spans: list[record_function] = []

    def enter(*_: Any) -> None:
        spans.append(record_function(QUANTIZER))
        spans[-1].__enter__()

    def leave(*_: Any) -> None:
        spans.pop().__exit__(None, None, None)

    hooks = [side.quantizer.register_forward_pre_hook(enter), side.quantizer.register_forward_hook(leave)]
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    try:
        with profile(activities=activities) as profiler:
            for _ in range(calls):
                run()
            wait(device)
    finally:
        for hook in hooks:
            hook.remove()
    spent = dict.fromkeys([*KINDS, QUANTIZER, OPTIMIZER, OTHER], 0.0)
    for event in profiler.events() or []:
        if event.device_type == torch.autograd.DeviceType.CPU:
            microseconds = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            spent[kind_of(event)] += microseconds / 1000 / calls
    return spent


def profile_table(spent: dict[str, dict[str, float]]) -> str:
    """Milliseconds and shares by kind, one column a side, as Markdown."""
    lines = ["| ms a step | " + " | ".join(spent) + " |", "|---" * (len(spent) + 1) + "|"]
    totals = {name: sum(parts.values()) for name, parts in spent.items()}
    for kind in next(iter(spent.values())):
        cells = [f"{parts[kind]:.1f} ({parts[kind] / totals[name]:.0%})" for name, parts in spent.items()]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "| together | " + " | ".join(f"{total:.1f}" for total in totals.values()) + " |"]) + "\n"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The ratios as Markdown."""
    lines = [
        "| pixels | batch | operation | ours | ours, pictures/s | diffusers, pictures/s | ratio | lowest to highest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['size']} | {row['batch']} | {row['operation']} | {row['architecture']} "
            f"| {row['ours_pictures_per_second']:.3g} | {row['theirs_pictures_per_second']:.3g} | {row['ratio']:.2f} "
            f"| {min(row['ratios']):.2f} to {max(row['ratios']):.2f} |"
        )
    return "\n".join(lines) + "\n"


def measure(size: int, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Everything at one picture size: parameters, rows of the table, profiles of a training step."""
    shape = shape_of(size, args.width)
    batch = args.batch or (16 if size < 128 else 4)
    torch.manual_seed(0)
    sides = {name: build_ours(name, shape) for name in ARCHITECTURES} | {THEIRS: build_theirs(shape)}
    images = (torch.rand(batch, 3, size, size) * 2 - 1).to(device)
    runs = {}
    for name, side in sides.items():
        side.model.to(device)
        runs[name] = runs_of(side, images, getattr(torch, args.dtype))
    rows = []
    for operation in OPERATIONS:
        for side in sides.values():
            side.model.train(operation == "train")
        times = compare({name: own[operation] for name, own in runs.items()}, args.pairs, args.seconds, device)
        for name in ARCHITECTURES:
            ratios = [theirs / ours for ours, theirs in zip(times[name], times[THEIRS], strict=True)]
            rows.append({
                "size": size, "batch": batch, "operation": operation, "architecture": name,
                "ours_pictures_per_second": batch / statistics.median(times[name]),
                "theirs_pictures_per_second": batch / statistics.median(times[THEIRS]),
                "ratio": statistics.median(ratios), "ratios": ratios,
            })  # fmt: skip
    for name, own in runs.items():
        if not math.isfinite(own["train"]().item()):
            raise UserError(
                f"{name} at {size} pixels trained itself to a loss that is not finite: its times mean nothing"
            )
    result: dict[str, Any] = {
        "network": {"size": size, "downsample": shape.downsample, "widths": shape.widths, "layers": LAYERS},
        "parameters": {name: side.network_parameters() for name, side in sides.items()},
        "rows": rows,
    }
    if args.profile:
        result["profile"] = {
            name: where_the_time_goes(side, runs[name]["train"], args.pairs, device) for name, side in sides.items()
        }
    return result


def main(argv: Sequence[str]) -> None:
    """Print a table of ratios; write them with all rounds as JSON."""
    parser = ArgumentParser(prog="tokenizer.py", description="Our tokenizer's speed over that of diffusers' VQModel.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="pixels a side (default 64 256)")
    parser.add_argument("--width", type=int, default=64, help="channels at full size, a multiple of 32 (default 64)")
    parser.add_argument("--batch", type=int, help="pictures (default 16, from 128 pixels on 4)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16 under autocast")
    parser.add_argument("--pairs", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="least time of a side in a round (default 0.5)")
    parser.add_argument("--threads", type=int, help="of the processor (default: torch's choice)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--profile", action="store_true", help="also say where the time of a training step goes")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    args = parser.parse_args(argv)
    if min(args.pairs, args.threads or 1, args.batch or 1, *args.sizes) < 1:
        raise UserError("--sizes, --pairs, --threads and --batch must be at least 1")
    if args.width < 1 or args.width % GROUPS:
        raise UserError(f"--width must be a multiple of {GROUPS}, VQModel's groups of channels, got {args.width}")
    for size in args.sizes:
        if size % (step := shape_of(size, args.width).downsample):
            raise UserError(f"--sizes: {size} is not a multiple of {step}, the pixels of a code at this size")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    results = [measure(size, args, device) for size in args.sizes]

    import diffusers

    rows = [row for result in results for row in result["rows"]]
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    report = {
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
        "threads": torch.get_num_threads(),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "sizes": [{key: value for key, value in result.items() if key != "rows"} for result in results],
        "rows": rows,
    }
    for result in results:
        network = result["network"]
        counts = ", ".join(f"{name} {count:,}" for name, count in result["parameters"].items())
        print(
            f"{network['size']} pixels, f{network['downsample']}, channels {list(network['widths'])}: {counts} weights"
        )
    print(f"{args.dtype}, {args.device}, {torch.get_num_threads()} threads, diffusers {diffusers.__version__}\n")
    print(table(rows))
    for result in results:
        if "profile" in result:
            print(f"one training step at {result['network']['size']} pixels\n\n{profile_table(result['profile'])}")
    if args.out:
        write_text(args.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(run_cli(main))
