"""Parity: was the number of ones odd? The smallest task that needs a state which every token can turn over."""

from typing import Any, Literal

import numpy as np

from attnlab.data.task import Rows, Task, blank, magnitude
from attnlab.errors import UsageError

PAD, ASK, ZERO = 0, 1, 2
SHORTEST = 3
LENGTHS = tuple(f"bits_{1 << i}" for i in range(18))


class Parity(Task):
    """Zeros and ones; the answer is 1 where their sum is odd.

        1 0 1 1 =  .  .          1 0 1 1 0 1
                1                1 1 0 1 1 0      <- wanted, with answer: end, and each

    With `answer: end` a row holds 3 bits or more, their number drawn evenly, and is asked once; with `each`, after
    every bit. One bit more or less changes everything, so there is nothing to learn from short cuts. Slices: how many
    bits are summed. Setting: lengths 3 to 40, asked at the end, arXiv 2411.12537.
    """

    slice_names = LENGTHS

    def __init__(self, answer: Literal["end", "each"] = "end", **rows: Any) -> None:
        if answer not in ("end", "each"):
            raise UsageError(f"data.answer ({answer}) must be end | each")
        super().__init__([".", "=", "0", "1"], answers=range(ZERO, ZERO + 2), **rows)
        if answer == "end" and self.min_length is not None:
            raise UsageError(
                f"data.min_length ({self.min_length}) must be null with data.answer=end, whose rows hold {SHORTEST} "
                "bits or more as it is: data.answer=each asks after every bit"
            )
        self.answer = answer

    def shortest(self) -> int:
        return SHORTEST + 1

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        batch, row = blank(rows, length, PAD), np.arange(rows)
        bits = rng.integers(2, size=(rows, length))
        parity = bits.cumsum(axis=1) % 2
        if self.answer == "each":
            batch.inputs[:], batch.targets[:] = ZERO + bits, ZERO + parity
            batch.slices[:] = magnitude(np.arange(1, length + 1))
            return batch
        n = rng.integers(SHORTEST, length, size=rows)
        batch.inputs[:] = np.where(np.arange(length) < n[:, None], ZERO + bits, PAD)
        batch.inputs[row, n], batch.targets[row, n] = ASK, ZERO + parity[row, n - 1]
        batch.slices[row, n] = magnitude(n)
        return batch
