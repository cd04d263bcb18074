"""Training of the prior: one step. The loop around it is in training/loop.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from common.optim import build_ema, optimizer_step
from common.seeds import derived_seed
from diffusion.noise import stratified_times
from diffusion.prior import Prior, PriorConfig, fitted_generation

Item = tuple[Tensor, Tensor]


class PriorStage:
    """Score-entropy training of the prior on codes `(B, h, w)` and labels `(B,)` (-1 where there are no classes).

    Args:
        codebook_size, grid, class_names: of the encoded data.
        seed: of the run; the noise of a step depends only on (seed, step, rank), so resuming repeats nothing.
        groups: the tokenizer's sub-codes, used where `prior.groups` is 0.
    """

    name = "prior"

    def __init__(
        self,
        config: PriorConfig,
        accelerator: Accelerator,
        codebook_size: int,
        grid: tuple[int, int],
        class_names: list[str],
        seed: int,
        groups: int = 1,
    ) -> None:
        self.accelerator, self.train, self.seed = accelerator, config.train, seed
        generation = fitted_generation(config, class_names)
        if generation != config.generation:
            accelerator.print(
                f"prior: generation defaults that fit this model: sampler {generation.sampler}, "
                f"guidance {generation.guidance_scale:g}"
            )
        config = replace(config.resolved(groups), generation=generation)
        model = Prior(config, codebook_size, grid, class_names)
        self.ema = build_ema(model, config.train.ema_decay).to(accelerator.device)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.train.learning_rate,
            betas=(config.train.betas[0], config.train.betas[1]),
            weight_decay=config.train.weight_decay,
            fused=True,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    def set_learning_rate(self, scale: float) -> None:
        """Set the learning rate to `scale` times the configured one."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.train.learning_rate * scale

    def step(self, batch: Item, step: int) -> dict[str, Tensor]:
        """One update from (codes `(B, h, w)`, labels `(B,)`); metrics in nats a code.

        A step whose loss or gradient is not finite in any process moves nothing; `skipped` is then 1.
        """
        codes, labels = (value.to(self.accelerator.device) for value in batch)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        common = torch.Generator().manual_seed(derived_seed(self.seed, step, 0, 1))  # the same in every process
        own = torch.Generator().manual_seed(derived_seed(self.seed, step, rank, 2))
        t = stratified_times(len(codes), common, rank=rank, world_size=processes)
        loss = self.model(codes, labels, t, own)
        metrics = {"loss": loss}
        moved = optimizer_step(self.accelerator, self.model, self.optimizer, loss, metrics, self.train.grad_clip)
        if moved:
            self.ema.update_parameters(self.accelerator.unwrap_model(self.model))
        return {name: value.detach() for name, value in metrics.items()} | {"skipped": torch.tensor(float(not moved))}

    def pop_metrics(self) -> dict[str, float]:
        """Metrics since the last call; this stage has none."""
        return {}

    def evaluate(self, loader: Iterable[Item]) -> dict[str, float]:
        """Likelihood bound of validation codes with the averaged weights, in bits a code."""
        codes, labels = (torch.cat(values).to(self.accelerator.device) for values in zip(*loader, strict=True))
        prior = cast(Prior, self.ema.module).eval()
        bound = prior.likelihood(codes, labels, torch.Generator().manual_seed(self.seed), points=4)
        bits = 1 / math.log(2)
        return {"bits_per_code": bound.nats * bits, "standard_error": bound.standard_error * bits}

    def export(self, directory: Path, provenance: Mapping[str, object]) -> None:
        """Write the averaged weights, their configuration and the generation defaults."""
        cast(Prior, self.ema.module).save(directory, provenance)
