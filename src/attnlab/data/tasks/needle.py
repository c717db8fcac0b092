"""A needle in a haystack: find what was noted under this word, at any depth."""

from typing import Any

import numpy as np

from attnlab.data.task import Rows, Task, blank, distinct, least
from attnlab.errors import UsageError

MARK = 0
DEPTHS = tuple(f"depth_{10 * i}" for i in range(10))


class Needle(Task):
    """Words at random, among them notes (a mark, a word, its value); at the end one of them is asked for.

        w3 w9 M  w4 w7 w1 w9 M  w2 w5 w0 w3 ... M  w4
                                                   w7     <- wanted

    Notes and noise are made of the same words, so that only the mark tells them apart; the asked words of a row
    differ. Slices: the depth of the note that is asked for, in tenths of the row
    (depth_0: at its beginning); with evaluation.lengths it is a table of depth and length. After RULER, arXiv
    2404.06654, made small.
    """

    slice_names = DEPTHS

    def __init__(self, n_words: int = 64, n_needles: int = 1, **rows: Any) -> None:
        least("n_words", n_words, 2)
        least("n_needles", n_needles, 1)
        if n_needles > n_words:
            raise UsageError(f"data.n_needles ({n_needles}) must be at most data.n_words ({n_words})")
        super().__init__(["M", *(f"w{i}" for i in range(n_words))], answers=range(1, 1 + n_words), **rows)
        self.n_words, self.n_needles = n_words, n_needles

    def shortest(self) -> int:
        return 3 * self.n_needles + 2

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        n, batch, row = self.n_needles, blank(rows, length), np.arange(rows)[:, None]
        batch.inputs[:] = rng.integers(1, self.n_vocab, size=(rows, length))
        # Notes are three tokens long: choose n places in a row that is shorter by two for each, and make room.
        free = length - 2 - 2 * n
        starts = np.sort(distinct(rng, rows, n, free), axis=1) + 2 * np.arange(n)
        keys, values = 1 + distinct(rng, rows, n, self.n_words), rng.integers(1, self.n_vocab, size=(rows, n))
        batch.inputs[row, starts], batch.inputs[row, starts + 1], batch.inputs[row, starts + 2] = MARK, keys, values
        asked = rng.integers(n, size=(rows, 1))
        batch.inputs[:, -2] = MARK
        batch.inputs[:, -1:], batch.targets[:, -1:] = keys[row, asked], values[row, asked]
        batch.slices[:, -1:] = 10 * starts[row, asked] // length
        return batch
