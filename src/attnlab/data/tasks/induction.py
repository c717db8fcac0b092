"""Induction: what followed the special token last time?"""

from typing import Any

import numpy as np

from attnlab.data.task import GAPS, Rows, Task, blank, distinct, least, magnitude


class Induction(Task):
    """Random tokens, among which a special one stands once; at the end it comes again, and the answer is its successor.

        a3 a7 S a5 a0 a2 a7 ... a1 S
                                   a5     <- wanted

    With `n_questions` above 1 the special token comes back so often, each time before a token that is the answer.
    Slices: the distance to where the special
    token stood first. Setting: n_vocab 16 and 256 tokens, Mamba, arXiv 2312.00752, section 4.1.2.
    """

    slice_names = GAPS

    def __init__(self, n_vocab: int = 16, n_questions: int = 1, **rows: Any) -> None:
        least("n_vocab", n_vocab, 3)
        least("n_questions", n_questions, 1)
        super().__init__(["S", *(f"a{i}" for i in range(n_vocab - 1))], answers=range(1, n_vocab), **rows)
        self.n_questions = n_questions

    def shortest(self) -> int:
        return 2 * self.n_questions + 2

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        batch, row = blank(rows, length), np.arange(rows)[:, None]
        batch.inputs[:] = rng.integers(1, self.n_vocab, size=(rows, length))
        answer = rng.integers(1, self.n_vocab, size=(rows, 1))
        # Pairs (S, answer) never overlap: choose places among the pairs of neighbours, the last S apart.
        n, half = self.n_questions, (length - 1) // 2
        places = 2 * np.sort(distinct(rng, rows, n, half), axis=1)
        batch.inputs[row, places], batch.inputs[row, places + 1] = 0, answer
        batch.inputs[:, -1] = 0
        asked = np.concatenate([places[:, 1:], np.full((rows, 1), length - 1)], axis=1)
        batch.targets[row, asked] = answer
        batch.slices[row, asked] = magnitude(asked - places[:, :1])
        return batch
