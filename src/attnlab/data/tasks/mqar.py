"""Multi-query associative recall: which value stood after this key?"""

from typing import Any

import numpy as np

from attnlab.data.task import Rows, Task, blank, distinct, least, magnitude
from attnlab.errors import UsageError


class MQAR(Task):
    """Pairs of a key and a value come first; later each key is asked once, and its value is the answer.

        k3 v8 k1 v5 .  k1 .  .  .  k3 .  .
                       v5          v8           <- wanted

    Keys (half of the vocabulary) and values are drawn anew for each row, without repetition. The questions stand
    at even distances after the pairs; slot i = 1, 2, ... is drawn with weight i^(power - 1), without replacement,
    so most come soon and some late. `random_non_queries` fills the slots in between with random tokens. To see which
    values there are gives 1 of n_pairs; the place of a question tells more, for the first pair chooses its slot first.
    Slices:
    the distance from a question to its key. Settings and law of the gaps: Zoology, arXiv 2312.04927, figure 2.
    """

    def __init__(
        self,
        n_vocab: int = 8192,
        n_pairs: int = 4,
        power: float = 0.01,
        random_non_queries: bool = False,
        **rows: Any,
    ) -> None:
        least("n_vocab", n_vocab, 6)
        least("n_pairs", n_pairs, 1)
        self.n_keys = n_vocab // 2 - 1  # token 0 is the blank
        if n_pairs > self.n_keys:
            raise UsageError(
                f"data.n_pairs ({n_pairs}) must be at most {self.n_keys}: data.n_vocab ({n_vocab}) has no more keys"
            )
        if not power > 0:
            raise UsageError(f"data.power ({power}) must be greater than 0")
        keys = [f"k{i}" for i in range(self.n_keys)]
        super().__init__(
            [".", *keys, *(f"v{i}" for i in range(n_vocab - 1 - self.n_keys))],
            answers=range(1 + self.n_keys, n_vocab),
            **rows,
        )
        self.n_pairs, self.power, self.random_non_queries = n_pairs, power, random_non_queries

    def shortest(self) -> int:
        return 4 * self.n_pairs  # each pair takes two tokens, and so does each question's slot

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        n = self.n_pairs
        batch = blank(rows, length)
        keys = 1 + distinct(rng, rows, n, self.n_keys)
        values = 1 + self.n_keys + distinct(rng, rows, n, self.n_vocab - 1 - self.n_keys)
        slots = (length - 2 * n) // 2
        weight = np.arange(1, slots + 1) ** (self.power - 1)
        # The n smallest of exponential times with these rates: drawing without replacement, one after the other.
        slot = (rng.exponential(size=(rows, slots)) / weight).argsort(axis=1)[:, :n]
        asked, row = 2 * n + 2 * slot, np.arange(rows)[:, None]
        if self.random_non_queries:
            batch.inputs[:] = rng.integers(self.n_vocab, size=batch.inputs.shape)
        batch.inputs[:, 0 : 2 * n : 2], batch.inputs[:, 1 : 2 * n : 2] = keys, values
        batch.inputs[row, asked], batch.targets[row, asked] = keys, values
        batch.slices[row, asked] = magnitude(asked - 2 * np.arange(n))
        return batch
