"""Counting: how often was this variable raised since it was set to zero?"""

from typing import Any

import numpy as np

from attnlab.data.task import GAPS, Rows, Task, blank, least, magnitude
from attnlab.errors import UsageError

PASS = 0
QUESTION = 0.2  # of all statements
SET = 0.1


class Counting(Task):
    """A small program; where a variable is asked for, the answer is its value.

        a=0 a++ pass b=0 a++ a?  b?  b++ a=0 a++ a?
                             2   0               1      <- wanted

    A statement is one token: `pass`, or for one of n_variables: set it to 0, raise it by one, ask for it. Every
    variable is set at the beginning, and none is raised above `most`. With probability `passes` a statement does
    nothing. Slices: the distance to where the variable was set last. After the counting task of contextual position
    encoding, arXiv 2405.18719.
    """

    slice_names = GAPS

    def __init__(self, n_variables: int = 1, most: int = 10, passes: float = 0.3, **rows: Any) -> None:
        least("n_variables", n_variables, 1)
        least("most", most, 1)
        if n_variables > 26:
            raise UsageError(f"data.n_variables ({n_variables}) must be at most 26: they are called a to z")
        if not 0 <= passes < 1:
            raise UsageError(f"data.passes ({passes}) must be at least 0, below 1")
        names = [chr(ord("a") + i) for i in range(n_variables)]
        statements = [f"{name}{kind}" for kind in ("=0", "++", "?") for name in names]
        super().__init__(
            ["pass", *statements, *map(str, range(most + 1))],
            answers=range(1 + 3 * n_variables, 2 + 3 * n_variables + most),
            **rows,
        )
        self.n_variables, self.most, self.passes = n_variables, most, passes

    def shortest(self) -> int:
        return self.n_variables + 1

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        n, batch, row = self.n_variables, blank(rows, length, PASS), np.arange(rows)
        kind, idle = rng.random((rows, length)), rng.random((rows, length)) < self.passes
        variable = rng.integers(n, size=(rows, length))
        value, since = np.zeros((rows, n), np.int64), np.zeros((rows, n), np.int64)
        for t in range(length):
            if t < n:  # set them all, one after the other
                variable[:, t], kind[:, t], idle[:, t] = t, QUESTION, False
            name = variable[:, t]
            asks = (~idle[:, t] & (kind[:, t] < QUESTION)) | (t == length - 1)  # so no row is without a question
            sets = ~asks & ~idle[:, t] & (kind[:, t] < QUESTION + SET)
            raises = ~asks & ~idle[:, t] & ~sets & (value[row, name] < self.most)
            value[row, name] = np.where(sets, 0, value[row, name] + raises)
            since[row, name] = np.where(sets, t, since[row, name])
            statement = np.select([sets, raises, asks], [1 + name, 1 + n + name, 1 + 2 * n + name], PASS)
            batch.inputs[:, t] = statement
            batch.targets[asks, t] = 1 + 3 * n + value[row, name][asks]
            batch.slices[asks, t] = magnitude(t - since[row, name][asks])
        return batch
