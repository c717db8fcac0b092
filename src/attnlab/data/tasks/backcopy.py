"""Backcopy: a Markov chain in which a few tokens ask for the token before them."""

from typing import Any

import numpy as np
from jaxtyping import Float

from attnlab.data.task import AnswerScore, Rows, Task, blank, least

BIGRAM, COPY = 0, 1


class Backcopy(Task):
    """One chain for all rows; a token of kind t is followed by the token that stood before it.

        w3 w7 t1 w7 w2 t0 w2 w9 ...
        w7 t1 w7 w2 t0 w2 w9 ...          <- wanted, everywhere

    So a head has work only where a t stands, and would best do nothing elsewhere. The rest follows a chain whose rows
    of probabilities are drawn once, from Dirichlet(1), and says nothing but to be learnt by heart. Slices: whether the
    answer is copied. After the bigram-backcopy task of arXiv 2410.13835, whose chain is the bigrams of a text.
    """

    solved_at = None
    slice_names = ("bigram", "copy")

    def __init__(self, n_vocab: int = 32, n_triggers: int = 3, **rows: Any) -> None:
        least("n_triggers", n_triggers, 1)
        least("n_vocab", n_vocab, n_triggers + 2)
        names = [f"t{i}" for i in range(n_triggers)] + [f"w{i}" for i in range(n_vocab - n_triggers)]
        super().__init__(names, answers=range(n_vocab), **rows)
        self.n_triggers = n_triggers
        rng = np.random.Generator(np.random.Philox(key=n_vocab))
        self.chain: Float[np.ndarray, "v v"] = rng.dirichlet(np.ones(n_vocab), size=n_vocab)

    def shortest(self) -> int:
        return 3

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        tokens, cumulative = np.empty((rows, length + 1), np.int64), self.chain.cumsum(axis=1)
        tokens[:, 0] = rng.integers(self.n_triggers, self.n_vocab, size=rows)
        drawn = rng.random((rows, length))
        for t in range(length):
            passed = (drawn[:, t, None] > cumulative[tokens[:, t]]).sum(axis=1).clip(max=self.n_vocab - 1)
            tokens[:, t + 1] = np.where(tokens[:, t] < self.n_triggers, tokens[:, t - 1], passed)
        batch = blank(rows, length)
        batch.inputs[:], batch.targets[:] = tokens[:, :-1], tokens[:, 1:]
        batch.slices[:] = np.where(batch.inputs < self.n_triggers, COPY, BIGRAM)
        return batch

    def probabilities(self, rows: Rows) -> Float[np.ndarray, "b t v"]:
        """The exact ones of the next token after each token of these rows."""
        before = np.eye(self.n_vocab)[np.roll(rows.inputs, 1, axis=1)]
        return np.where((rows.inputs < self.n_triggers)[..., None], before, self.chain[rows.inputs])

    def exact_nats(self, rows: Rows) -> Float[np.ndarray, "b t"]:
        picked = np.take_along_axis(self.probabilities(rows), np.maximum(rows.targets, 0)[..., None], axis=2)
        return np.where(rows.asked, -np.log(np.maximum(picked[..., 0], 1e-30)), 0.0)

    def best(self, length: int, seed: int = 0) -> AnswerScore:
        rows = self.validation(length, seed)
        right = self.probabilities(rows).argmax(axis=2) == rows.targets
        return AnswerScore(float(right[rows.asked].mean()), float(self.exact_nats(rows)[rows.asked].mean()))
