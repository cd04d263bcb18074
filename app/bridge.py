"""Today's ImageGenerator with the sampling options of `diffusion.settings`, until it takes them itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from diffusion.graph import Absorbing, Graph
from diffusion.pipeline import ImageGenerator
from diffusion.sampler import NEEDS_MASK, SAMPLERS
from diffusion.settings import SamplingSettings

RENAMED = {"time_spacing": "step_grid", "skip_unchanged": "skip"}


def samplers_for(graph: Graph) -> list[str]:
    return [name for name in SAMPLERS if isinstance(graph, Absorbing) or name not in NEEDS_MASK]


class Bridge:
    def __init__(self, generator: ImageGenerator) -> None:
        self.generator, self.defaults = generator, SamplingSettings()
        self.prior = SimpleNamespace(graph=generator.graph, grid=generator.grid)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)

    def settings(self, **options: object) -> SamplingSettings:
        return self.defaults.updated(options)

    def generate(self, *args: Any, settings: SamplingSettings, **options: Any) -> Any:
        return self.generator.generate(*args, **today(settings), **options)

    def inpaint(self, *args: Any, settings: SamplingSettings, **options: Any) -> Any:
        return self.generator.inpaint(*args, **today(settings), **options)


def today(settings: SamplingSettings) -> dict[str, Any]:
    return {RENAMED.get(name, name): value for name, value in vars(settings).items()}
