"""Time of a function by kind of operation, from torch.profiler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

# An operation belongs to the first kind of which its name contains a part, and to OTHER if there is none.
KINDS = {
    "convolution": ("conv", "slow_conv", "cudnn"),
    "group norm": ("group_norm", "GroupNorm"),
    "SiLU": ("silu",),
    "copies and formats": ("copy_", "clone", "contiguous", "aten::to", "constant_pad", "Memcpy", "reorder"),
}
QUANTIZER, OPTIMIZER, OTHER = "quantizer", "optimizer", "other"


def kind_of(event: FunctionEvent) -> str:
    """The kind that the operation's own time is counted for."""
    caller: FunctionEvent | None = event
    while caller is not None:
        if caller.name == QUANTIZER:
            return QUANTIZER
        if caller.name.startswith("Optimizer."):
            return OPTIMIZER
        caller = caller.cpu_parent
    return next((kind for kind, parts in KINDS.items() if any(part in event.name for part in parts)), OTHER)


def time_by_kind(run: Callable[[], object], quantizer: nn.Module, calls: int, device: torch.device) -> dict[str, float]:
    """Milliseconds that a call of `run` takes in each kind of operation: CPU time, or GPU time on CUDA.

    The forward pass of `quantizer` is a kind of its own; its small backward pass is in OTHER. On a CPU, oneDNN converts
    memory formats inside its convolutions, so that time counts as convolution.
    """
    forward = quantizer.forward

    def recorded(*inputs: object) -> object:
        with record_function(QUANTIZER):
            return forward(*inputs)

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    quantizer.forward = recorded  # type: ignore[method-assign]
    try:
        with profile(activities=activities) as profiler:
            for _ in range(calls):
                run()
    finally:
        quantizer.forward = forward  # type: ignore[method-assign]
    spent = dict.fromkeys([*KINDS, QUANTIZER, OPTIMIZER, OTHER], 0.0)
    for event in profiler.events() or []:
        if event.device_type == torch.profiler.DeviceType.CPU:
            microseconds = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            spent[kind_of(event)] += microseconds / 1000 / calls
    return spent


def profile_table(spent: dict[str, dict[str, float]]) -> str:
    """Milliseconds and fractions of the total by kind, one column a model, as Markdown."""
    lines = ["| ms a step | " + " | ".join(spent) + " |", "|---" * (len(spent) + 1) + "|"]
    totals = {name: sum(parts.values()) for name, parts in spent.items()}
    for kind in next(iter(spent.values())):
        cells = [f"{parts[kind]:.1f} ({parts[kind] / totals[name]:.0%})" for name, parts in spent.items()]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "| total | " + " | ".join(f"{total:.1f}" for total in totals.values()) + " |"]) + "\n"
