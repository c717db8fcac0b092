"""Memorization: facts that stand in no row and must be learnt into the weights."""

from typing import Any

import numpy as np

from attnlab.data.task import PLACES, Rows, Task, blank, least, magnitude


class Memorization(Task):
    """Each key has one value, the same in all rows, which the rows never show.

        k7 ?  k2 ?  k7 ?
           v3    v0    v3      <- wanted

    Which value belongs to which key is drawn once, by `facts`. It asks nothing
    of the mixer but to look one token back; it shows what a variant takes away from the rest of the model. Slices:
    the place. Settings: MAD, arXiv 2403.17844: n_vocab 256 (127 keys, 128 values, the question), rows of 32.
    """

    solved_at = None
    slice_names = PLACES

    def __init__(self, n_vocab: int = 256, facts: int = 0, **rows: Any) -> None:
        least("n_vocab", n_vocab, 4)
        least("facts", facts, 0)
        self.n_keys = (n_vocab - 1) // 2
        self.n_values = n_vocab - 1 - self.n_keys
        names = ["?", *(f"k{i}" for i in range(self.n_keys)), *(f"v{i}" for i in range(self.n_values))]
        super().__init__(names, answers=range(1 + self.n_keys, n_vocab), **rows)
        self.facts = facts
        drawn = np.random.Generator(np.random.Philox(facts)).permutation(self.n_values)[: self.n_keys]
        self.value_of = 1 + self.n_keys + drawn

    def shortest(self) -> int:
        return 2

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        n, batch = length // 2, blank(rows, length)
        keys = rng.integers(self.n_keys, size=(rows, n))
        batch.inputs[:, 0 : 2 * n : 2] = 1 + keys
        batch.targets[:, 1 : 2 * n : 2] = self.value_of[keys]
        batch.slices[:, 1 : 2 * n : 2] = magnitude(np.arange(1, n + 1))
        return batch
