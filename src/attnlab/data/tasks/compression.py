"""Compression: hold a whole random row and give it back."""

from typing import Any

import numpy as np

from attnlab.data.predictors import by_count, most_frequent
from attnlab.data.task import PLACES, Rows, Task, blank, least, magnitude

ASK = 0


class Compression(Task):
    """Random tokens, then as many questions: the row must be given back, place by place.

        c4 c0 c9 ?  ?  ?
                 c4 c0 c9      <- wanted

    What a mixer keeps of the first half must hold all of it, so a state of fixed size fails where it is full, while
    keys and values that grow with the row never do. To copy from a place is what is asked, so that the predictors that
    do so make no floor. Slices: the place. Settings: MAD, arXiv 2403.17844: n_vocab 16, 32 tokens. Where we differ: MAD
    decodes all tokens from the output at one special token, by a decoder of its own; a causal language model has a head
    for one token, and is asked in turn.
    """

    solved_at = None
    slice_names = PLACES
    predictors = (most_frequent, by_count)

    def __init__(self, n_vocab: int = 16, **rows: Any) -> None:
        least("n_vocab", n_vocab, 3)
        super().__init__(["?", *(f"c{i}" for i in range(n_vocab - 1))], answers=range(1, n_vocab), **rows)

    def shortest(self) -> int:
        return 2

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        n, batch = length // 2, blank(rows, length, ASK)
        tokens = rng.integers(1, self.n_vocab, size=(rows, length - n))  # an odd row shows one more than it asks
        batch.inputs[:, :-n], batch.targets[:, -n:] = tokens, tokens[:, :n]
        batch.slices[:, -n:] = magnitude(np.arange(1, n + 1))
        return batch
