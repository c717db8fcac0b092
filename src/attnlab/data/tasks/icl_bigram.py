"""In-context bigrams: a new Markov chain in every row, whose exact prediction is known."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from attnlab.data.task import PLACES, AnswerScore, Rows, Task, blank, least, magnitude, mean_score


class ICLBigram(Task):
    """Each row is a Markov chain of its own, whose rows of probabilities are drawn from Dirichlet(1).

        s2 s0 s0 s2 s0 s1 ...
        s0 s0 s2 s0 s1 ...          <- wanted: the next state, everywhere

    Nobody can do better than p(j | i) = (n_ij + 1) / (n_i + k), with n_ij the number of times that j has followed i so
    far, n_i their sum and k the number of states: that is the expectation under the posterior. Its loss is the ceiling,
    measured on the validation rows. Its floor is that of counting states alone: a unigram. Slices: the place in the
    row. Setting: k = 3, rows of 100, arXiv 2402.11004.
    """

    solved_at = None
    slice_names = PLACES

    def __init__(self, n_states: int = 3, **rows: Any) -> None:
        least("n_states", n_states, 2)
        super().__init__([f"s{i}" for i in range(n_states)], answers=range(n_states), **rows)
        self.n_states = n_states

    def shortest(self) -> int:
        return 2

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        k = self.n_states
        cumulative = rng.dirichlet(np.ones(k), size=(rows, k)).cumsum(axis=2)
        states = np.empty((rows, length + 1), np.int64)
        states[:, 0] = rng.integers(k, size=rows)
        steps, row = rng.random((rows, length)), np.arange(rows)
        for t in range(length):
            passed = steps[:, t, None] > cumulative[row, states[:, t]]
            states[:, t + 1] = passed.sum(axis=1).clip(max=k - 1)  # rounding may leave a sum below 1
        batch = blank(rows, length)
        batch.inputs[:], batch.targets[:] = states[:, :-1], states[:, 1:]
        batch.slices[:] = magnitude(np.arange(1, length + 1))
        return batch

    def bayes(self, inputs: Int64[np.ndarray, "b t"]) -> Float[np.ndarray, "b t k"]:
        """The exact probabilities of the next state after each token of these rows, given what came before."""
        k, (rows, length) = self.n_states, inputs.shape
        counts, probabilities, row = np.ones((rows, k, k)), np.empty((rows, length, k)), np.arange(rows)
        for t in range(length):
            if t:
                counts[row, inputs[:, t - 1], inputs[:, t]] += 1
            here = counts[row, inputs[:, t]]
            probabilities[:, t] = here / here.sum(axis=1, keepdims=True)
        return probabilities

    def exact_nats(self, rows: Rows) -> Float[np.ndarray, "b t"]:
        picked = np.take_along_axis(self.bayes(rows.inputs), np.maximum(rows.targets, 0)[..., None], axis=2)
        return np.where(rows.asked, -np.log(picked[..., 0]), 0.0)

    def best(self, length: int, seed: int = 0) -> AnswerScore:
        rows = self.validation(length, seed)
        return mean_score(np.log(self.bayes(rows.inputs)).reshape(-1, self.n_states), rows.targets.reshape(-1))
