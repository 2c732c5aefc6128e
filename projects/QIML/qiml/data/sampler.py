"""Which sample is where: the order of training data as a pure function of (seed, iteration, position)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset, Sampler


@dataclass(frozen=True)
class SampleKey:
    """One sample of a run.

    Attributes:
        index: which frame of the data set.
        iteration: training iteration, from 0.
        position: place in the global batch, over all workers.
    """

    index: int
    iteration: int
    position: int


class TrainingSampler(Sampler[list[SampleKey]]):
    """Endless batches of sample keys, every frame once an epoch, shuffled by (seed, epoch).

    No state but the next iteration: a run that starts at iteration i sees what an uninterrupted one
    sees from there on, and worker r of w takes every w-th position of the same global batch.

    Args:
        dataset_size: frames.
        batch_size: of the global batch, at least `world_size`.
        seed: of the run.
        start_iteration: first iteration to yield.
        rank, world_size: this worker among all.
    """

    def __init__(
        self,
        dataset_size: int,
        batch_size: int,
        seed: int,
        start_iteration: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.dataset_size, self.batch_size, self.seed = dataset_size, batch_size, seed
        self.start_iteration, self.rank, self.world_size = start_iteration, rank, world_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        iteration = self.start_iteration
        order = lru_cache(maxsize=2)(self.epoch_order)
        while True:
            keys = []
            for position in range(self.rank, self.batch_size, self.world_size):
                epoch, place = divmod(iteration * self.batch_size + position, self.dataset_size)
                keys.append(SampleKey(int(order(epoch)[place]), iteration, position))
            yield keys
            iteration += 1

    def epoch_order(self, epoch: int) -> np.ndarray:
        """(dataset_size,) permutation of the frames."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.dataset_size)


class SeededDataset(Dataset):
    """Maps sample keys to mapped frames; each sample draws from a generator of its own.

    Args:
        frames: dataset dicts.
        mapper: (dataset dict, generator) -> model input.
        seed: of the run.
    """

    def __init__(self, frames: list[dict], mapper: Callable, seed: int):
        self.frames, self.mapper, self.seed = frames, mapper, seed

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: SampleKey) -> dict:
        rng = np.random.default_rng((self.seed, key.iteration, key.position))
        return self.mapper(self.frames[key.index], rng)
