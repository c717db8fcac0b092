"""Selective copying: say the marked tokens again in order, whatever lay between them."""

from typing import Any

import numpy as np

from attnlab.data.task import Rows, Task, blank, distinct, least, magnitude

BLANK, ASK, FIRST = 0, 1, 2
ITEMS = tuple(f"item_{1 << i}" for i in range(18))


class SelectiveCopy(Task):
    """A few tokens lie scattered among blanks; at the end they are asked for in their order.

        .  x4 .  .  x1 x9 .  ?  ?  ?
                             x4 x1 x9     <- wanted

    Slices: which of the tokens in order (item_4: the 4th to 7th).
    Settings: MAD, arXiv 2403.17844: n_vocab 16, 16 tokens in rows of 256; after Mamba, arXiv 2312.00752.
    """

    slice_names = ITEMS

    def __init__(self, n_vocab: int = 16, n_tokens: int = 16, **rows: Any) -> None:
        least("n_vocab", n_vocab, FIRST + 2)
        least("n_tokens", n_tokens, 1)
        super().__init__([".", "?", *(f"x{i}" for i in range(n_vocab - FIRST))], answers=range(FIRST, n_vocab), **rows)
        self.n_tokens = n_tokens

    def shortest(self) -> int:
        return 2 * self.n_tokens

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        n, batch = self.n_tokens, blank(rows, length, BLANK)
        tokens = rng.integers(FIRST, self.n_vocab, size=(rows, n))
        places = np.sort(distinct(rng, rows, n, length - n), axis=1)
        batch.inputs[np.arange(rows)[:, None], places] = tokens
        batch.inputs[:, -n:], batch.targets[:, -n:] = ASK, tokens
        batch.slices[:, -n:] = magnitude(np.arange(1, n + 1))
        return batch
