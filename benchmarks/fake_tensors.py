"""Modules with fake tensors (a shape and a type, no values), and answers to the questions that need values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Answers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers what fake tensors cannot: every scalar that is read is 1, so a loss is finite and a codebook initialized.

    Enter it inside of a FakeTensorMode.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], Tensor):
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func is torch.ops.aten.bincount.default and isinstance(args[2], int):
            return torch.empty(args[2], dtype=torch.int64)  # minlength: codes lie below it
        return func(*args, **(kwargs or {}))


def fake_copy(tensor: Tensor) -> Tensor:
    """A fake tensor of the same shape, strides and type. Call it in a FakeTensorMode."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


def make_fake(module: nn.Module) -> None:
    """Replace parameters and buffers by fake ones, in place; a frozen parameter becomes a buffer.

    MemTracker fails on frozen parameters. Module.to and copy.deepcopy fail on fake ones, so call this after both.
    """
    for part in module.modules():
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, fake_copy(buffer))
        for name, parameter in list(part.named_parameters(recurse=False)):
            fake = fake_copy(parameter)
            if parameter.requires_grad:
                setattr(part, name, nn.Parameter(fake))
            else:
                delattr(part, name)
                part.register_buffer(name, fake)
