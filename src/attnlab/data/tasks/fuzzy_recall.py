"""Fuzzy recall: keys and values are motifs of several tokens."""

import numpy as np

from attnlab.data.task import IGNORED, Rows, Score, Task, blank, guess, least

PAD = 0


class FuzzyRecall(Task):
    """As recall, but a key is a motif of 1 to 3 tokens, and so is a value; a motif has no token twice.

        .  .  k2 k5 v1 v3 v0 k2 v6 k2 k5 v1 v3 v0
                                      v1 v3 v0        <- wanted, where a whole key comes again

    Key and value tokens are of different kinds, so one can see where a motif ends; (k2) and (k2 k5) are different
    keys. The last pair always repeats one. Blanks fill the row at the left. Floor: one of n_values tokens is
    guessed. Slices: the distance to where the key stood last. Settings: MAD, arXiv 2403.17844: 16 tokens in all, motifs
    up to 3, rows of 128; here every repeated key is asked and keys have any length in validation, too.
    """

    def __init__(
        self, n_keys: int = 7, n_values: int = 8, key_motif: int = 3, value_motif: int = 3, val_rows: int = 256
    ) -> None:
        for key, value, smallest in (
            ("key_motif", key_motif, 1),
            ("value_motif", value_motif, 1),
            ("n_keys", n_keys, key_motif),
            ("n_values", n_values, max(value_motif, 2)),
        ):
            least(key, value, smallest)
        super().__init__([".", *(f"k{i}" for i in range(n_keys)), *(f"v{i}" for i in range(n_values))], val_rows)
        self.n_keys, self.n_values, self.key_motif, self.value_motif = n_keys, n_values, key_motif, value_motif

    def shortest(self) -> int:
        return 2 * (self.key_motif + self.value_motif)

    def chance(self, length: int) -> Score:
        return guess(self.n_values)

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        made = blank(rows, length, PAD)
        for row in range(rows):
            inputs, targets, slices = self._row(rng, length)
            for part, values in zip(made, (inputs, targets, slices), strict=True):
                part[row, length - len(values) :] = values
        return made

    def _row(self, rng: np.random.Generator, length: int) -> tuple[list[int], list[int], list[int]]:
        inputs: list[int] = []
        targets: list[int] = []
        slices: list[int] = []
        value_of: dict[tuple[int, ...], tuple[int, ...]] = {}
        place: dict[tuple[int, ...], int] = {}
        room = self.key_motif + self.value_motif
        last = False
        while not last:
            last = len(inputs) > length - 2 * room  # after this pair there may be no room for another
            if last:
                known = list(value_of)
                key = known[rng.integers(len(known))]
            else:
                key = self._motif(rng, self.key_motif, 1, self.n_keys)
            again = key in value_of
            value = value_of.setdefault(key, self._motif(rng, self.value_motif, 1 + self.n_keys, self.n_values))
            start = len(inputs) + len(key) - 1  # where the first token of the value is asked
            targets += [IGNORED] * (len(key) - 1) + (list(value) if again else [IGNORED] * len(value)) + [IGNORED]
            gap = max(start - place.get(key, start), 1).bit_length() - 1
            slices += [gap] * (len(key) + len(value))
            place[key] = start
            inputs += [*key, *value]
        return inputs, targets, slices

    @staticmethod
    def _motif(rng: np.random.Generator, longest: int, first: int, kinds: int) -> tuple[int, ...]:
        size = int(rng.integers(1, longest + 1))
        return tuple((first + rng.permutation(kinds)[:size]).tolist())
