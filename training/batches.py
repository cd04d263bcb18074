"""Batches as a function of (seed, step) alone, so that a resumed run sees what an unbroken one would have seen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from common.errors import UserError
from images.dataset import Key


class DeterministicBatchSampler(Sampler[list[Key]]):
    """Batches for steps start_step to stop_step - 1, each a function of (seed, step) alone.

    Global batch s is the slice [s B, (s + 1) B) of an endless sequence of permutations, one an epoch; process r takes rows
    r, r + world_size, ... Resuming at a step therefore gives the batches that an unbroken run would have seen.
    With `flip` their items are pairs (index, whether flipped), flipped in half of all cases.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        start_step: int,
        stop_step: int,
        rank: int = 0,
        world_size: int = 1,
        flip: bool = False,
    ) -> None:
        if batch_size % world_size:
            raise UserError(
                f"batch_size {batch_size} does not divide among {world_size} processes: change train.batch_size"
            )
        self.length, self.batch_size, self.seed, self.flip = length, batch_size, seed, flip
        self.steps, self.rank, self.world_size = range(start_step, stop_step), rank, world_size

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, permutation = -1, np.empty(0, dtype=np.int64)
        for step in self.steps:
            batch: list[Key] = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    permutation = np.random.default_rng([self.seed, epoch]).permutation(self.length)
                batch.append(int(permutation[position % self.length]))
            if self.flip:
                mirrored = np.random.default_rng([self.seed, step, 1]).random(len(batch)) < 0.5
                batch = list(zip(batch, mirrored.tolist(), strict=True))  # type: ignore[arg-type]
            yield batch[self.rank :: self.world_size]
