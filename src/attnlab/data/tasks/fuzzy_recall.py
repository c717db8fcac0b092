"""Fuzzy recall: keys and values are motifs of several tokens."""

from typing import Any

import numpy as np
from jaxtyping import Int64

from attnlab.data.task import Rows, Task, blank, distinct, least, magnitude

PAD = 0


class FuzzyRecall(Task):
    """As recall, but a key is a motif of 1 to 3 tokens, and so is a value; a motif has no token twice.

        .  .  k2 k5 v1 v3 v0 k2 v6 k2 k5 v1 v3 v0
                                      v1 v3 v0        <- wanted, where a whole key comes again

    Key and value tokens are of different kinds, so one can see where a motif ends; (k2) and (k2 k5) are different
    keys. The last pair always repeats one. Blanks fill the row at the left. Slices: the distance to where the key stood
    last. Settings: MAD, arXiv 2403.17844: 16 tokens in all, motifs up to 3, rows of 128; here every repeated key is
    asked and keys have any length in validation, too.
    """

    def __init__(
        self, n_keys: int = 7, n_values: int = 8, key_motif: int = 3, value_motif: int = 3, **rows: Any
    ) -> None:
        for key, value, smallest in (
            ("key_motif", key_motif, 1),
            ("value_motif", value_motif, 1),
            ("n_keys", n_keys, key_motif),
            ("n_values", n_values, max(value_motif, 2)),
        ):
            least(key, value, smallest)
        super().__init__(
            [".", *(f"k{i}" for i in range(n_keys)), *(f"v{i}" for i in range(n_values))],
            answers=range(1 + n_keys, 1 + n_keys + n_values),
            **rows,
        )
        self.n_keys, self.n_values, self.key_motif, self.value_motif = n_keys, n_values, key_motif, value_motif

    def shortest(self) -> int:
        return 2 * (self.key_motif + self.value_motif)

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        every, batch, end = np.arange(rows), blank(rows, length, PAD), np.zeros(rows, np.int64)
        # A motif has a number: its tokens, counted from 1, as the digits of a number that ends where it does.
        digits = (self.n_keys + 1) ** np.arange(self.key_motif)
        value_of = np.zeros((rows, (self.n_keys + 1) ** self.key_motif, self.value_motif), np.int64)
        stood = np.full(value_of.shape[:2], -1)
        going, room = np.full(rows, True), self.key_motif + self.value_motif
        while going.any():
            last = end > length - 2 * room  # after this pair there may be no room for another
            key = (self._motifs(rng, rows, self.key_motif, self.n_keys) * digits).sum(axis=1)
            # The last pair repeats a key: the one that stands first in a random order of those that were shown.
            order = np.where(stood >= 0, rng.random(stood.shape), -1.0) if last.any() else stood
            key = np.where(last, order.argmax(axis=1), key)
            value = self._motifs(rng, rows, self.value_motif, self.n_values)
            before = stood[every, key]
            again = before >= 0
            value = np.where(again[:, None], value_of[every, key], value)
            value_of[every, key] = value
            motif = key[:, None] // digits % (self.n_keys + 1)
            start = end + (motif > 0).sum(axis=1) - 1  # where the first token of the value is asked
            for i in range(self.key_motif):
                here = going & (motif[:, i] > 0)
                batch.inputs[here, end[here] + i] = motif[here, i]
            for i in range(self.value_motif):
                here = going & (value[:, i] > 0)
                batch.inputs[here, start[here] + 1 + i] = self.n_keys + value[here, i]
                asked = here & again
                batch.targets[asked, start[asked] + i] = self.n_keys + value[asked, i]
                batch.slices[asked, start[asked] + i] = magnitude(start[asked] - before[asked])
            stood[every, key] = start
            end = np.where(going, start + 1 + (value > 0).sum(axis=1), end)
            going &= ~last
        shift = (np.arange(length) - (length - end)[:, None]) % length  # the blanks at the end come to the beginning
        return Rows(*(np.take_along_axis(part, shift, axis=1) for part in batch))

    @staticmethod
    def _motifs(rng: np.random.Generator, rows: int, longest: int, kinds: int) -> Int64[np.ndarray, "b n"]:
        """For each row, 1 to `longest` different tokens, counted from 1, and then zeros."""
        size = rng.integers(1, longest + 1, size=(rows, 1))
        return np.where(np.arange(longest) < size, 1 + distinct(rng, rows, longest, kinds), 0)
