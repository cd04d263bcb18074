"""Graphs: what noise does to a code. The absorbing graph masks codes, the uniform graph replaces them by random ones."""

from __future__ import annotations

from common.errors import UserError
from diffusion.absorbing import Absorbing
from diffusion.forward_process import Graph, at_least_float32, check_codes, check_sigma, per_position
from diffusion.uniform import Uniform

__all__ = [
    "GRAPHS", "Absorbing", "Graph", "Uniform", "at_least_float32", "build_graph", "check_codes", "check_sigma",
    "per_position",
]  # fmt: skip

GRAPHS: dict[str, type[Absorbing] | type[Uniform]] = {"absorbing": Absorbing, "uniform": Uniform}


def build_graph(name: str, vocab_size: int) -> Graph:
    """The graph called `name`. Raises UserError for an unknown name."""
    if name not in GRAPHS:
        raise UserError(f"unknown graph '{name}': prior.graph is one of {', '.join(GRAPHS)}")
    return GRAPHS[name](vocab_size)
