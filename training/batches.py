"""Batches that are a function of (seed, step) alone, so that a resumed run uses those of an uninterrupted run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from common.errors import UserError
from images.dataset import Key


class DeterministicBatchSampler(Sampler[list[Key]]):
    """The keys of one process's part of every batch, for steps `start_step` to `stop_step` - 1.

    The global batch of step s is the slice [s B, (s + 1) B) of an endless sequence of permutations, one for each epoch;
    process r takes its rows r, r + world_size, ... A batch therefore depends on (seed, s) and not on `start_step`.

    Args:
        length: number of items in the data set.
        batch_size: global batch size B, over all processes.
        flip: whether keys are pairs (index, flipped), with half of them flipped at random, instead of indices.

    Raises:
        UserError: the processes cannot divide a batch evenly.
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
                f"train.batch_size {batch_size} is not a multiple of the {world_size} processes: "
                f"set it to {-(-batch_size // world_size) * world_size}"
            )
        self.length, self.batch_size, self.seed, self.flip = length, batch_size, seed, flip
        self.steps, self.rank, self.world_size = range(start_step, stop_step), rank, world_size

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, permutation = -1, np.empty(0, dtype=np.int64)
        for step in self.steps:
            indices: list[int] = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    permutation = np.random.default_rng([self.seed, epoch]).permutation(self.length)
                indices.append(int(permutation[position % self.length]))
            batch: list[Key] = [*indices]
            if self.flip:
                flipped = np.random.default_rng([self.seed, step, 1]).random(len(indices)) < 0.5
                batch = [*zip(indices, flipped.tolist(), strict=True)]
            yield batch[self.rank :: self.world_size]
