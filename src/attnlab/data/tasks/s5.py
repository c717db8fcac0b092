"""The word problem of a permutation group: what have all swaps so far come to?"""

from itertools import permutations
from typing import Any

import numpy as np

from attnlab.data.task import PLACES, Rows, Task, blank, least, magnitude
from attnlab.errors import UsageError

MOST = 6  # 720 tokens


class S5(Task):
    """Random permutations of n_elements things; the answer after each is the product of all so far.

        213 132 321
        213 231 132      <- wanted: first 213, then 132 after it, then 321 after both

    Token abc sends place 1 to a, 2 to b and 3 to c, and later tokens act on what earlier ones gave. For n_elements of
    5 or more the group is not solvable, and no circuit of constant depth is known to track it (arXiv 2404.08819);
    3 is the smallest that does not commute. Slices: the place. Setting: all 120
    permutations of 5, arXiv 2404.08819.
    """

    slice_names = PLACES

    def __init__(self, n_elements: int = 5, **rows: Any) -> None:
        least("n_elements", n_elements, 2)
        if n_elements > MOST:
            raise UsageError(f"data.n_elements ({n_elements}) must be at most {MOST}: it takes n_elements! tokens")
        group = list(permutations(range(n_elements)))
        super().__init__(["".join(str(i + 1) for i in one) for one in group], answers=range(len(group)), **rows)
        self.n_elements = n_elements
        number = {one: i for i, one in enumerate(group)}
        self.product = np.array([[number[tuple(b[i] for i in a)] for b in group] for a in group])  # a, then b

    def shortest(self) -> int:
        return 1

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        batch = blank(rows, length)
        batch.inputs[:] = rng.integers(self.n_vocab, size=(rows, length))
        batch.targets[:, 0] = batch.inputs[:, 0]
        for t in range(1, length):
            batch.targets[:, t] = self.product[batch.targets[:, t - 1], batch.inputs[:, t]]
        batch.slices[:] = magnitude(np.arange(1, length + 1))
        return batch
