"""A task of one's own: where a token asks, which token there were most of so far; elsewhere, nothing."""

from typing import Any

import numpy as np

from attnlab.data.task import Rows, Task, blank, least

BEGIN, ASK, NOTHING, FIRST = 0, 1, 2, 3


class Trigger(Task):
    """Letters at random, and now and then a question: which of them stood most often so far?

        begin b a b ?  a  c ...
        -     - - - b  -  - ...          <- wanted

    A head has work at questions only. After the task of arXiv 2603.11487, where a trigger asks for the average of all
    tokens before it and any other token for zero; here the average is a vote, for answers are tokens. Draws are not
    asked about. Slices: whether a letter is wanted.
    """

    solved_at = None
    slice_names = ("nothing", "letter")

    def __init__(self, n_letters: int = 4, share: float = 0.2, **rows: Any) -> None:
        least("n_letters", n_letters, 2)
        names = ["begin", "?", "-", *(f"w{i}" for i in range(n_letters))]
        super().__init__(names, answers=range(NOTHING, FIRST + n_letters), **rows)
        self.n_letters, self.share = n_letters, share

    def shortest(self) -> int:
        return 3

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        batch = blank(rows, length)
        letters = rng.integers(self.n_letters, size=(rows, length))
        asks = rng.random((rows, length)) < self.share
        asks[:, :2] = False  # the begin, and a first letter
        batch.inputs[:] = np.where(asks, ASK, FIRST + letters)
        batch.inputs[:, 0] = BEGIN
        votes = (batch.inputs[..., None] == FIRST + np.arange(self.n_letters)).cumsum(axis=1)
        most = np.sort(votes, axis=2)
        sure = ~asks | (most[..., -1] > most[..., -2])
        wanted = np.where(asks, FIRST + votes.argmax(axis=2), NOTHING)
        batch.targets[:] = np.where(sure, wanted, batch.targets)
        batch.targets[:, 0] = blank(1, 1).targets
        batch.slices[:] = asks
        return batch
