"""The whole product in float64, so that a test can compare results that were computed in two ways exactly.

A CPU rounds a matrix product differently for other batch shapes, tile sizes, numbers of threads and instruction sets. In
float32 the rounding now and then decides which code is sampled, or which code is nearest, and then a whole image differs. In
float64 it is a billion times smaller and decides nothing, so whatever still differs is a fault.

`python -m tests.float64 grid ...` is `python sample.py grid ...` in float64, for tests that start processes.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _KeepFloat64(TorchFunctionMode):
    """`x.float()` gives float64: the product asks for float32 by that call in the middle of its computations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {})) if func is not torch.Tensor.float else args[0].double()


@contextmanager
def float64() -> Iterator[None]:
    """Inside, models are made and loaded in float64 and compute in it. Load them inside: those of outside do not fit."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _KeepFloat64():
            yield
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    import sample
    from common.errors import run_cli

    with float64():
        sys.exit(run_cli(sample.main))
