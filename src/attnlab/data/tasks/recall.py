"""Recall in a stream of pairs, with and without noise between them."""

from typing import Any

import numpy as np

from attnlab.data.task import Rows, Task, blank, least, magnitude
from attnlab.errors import UsageError


class Recall(Task):
    """A stream of pairs; each key has a value of its own in this row, and it is the answer when the key comes again.

        k3 v1 k0 v4 n7 n2 k3 v1 k0 v4
                          v1    v4        <- wanted

    With probability `noise` a pair is two noise tokens instead. The last pair always repeats one. Slices: the distance
    to where the key stood last. Settings: MAD, arXiv 2403.17844, with every repeated key asked: recall has 8 keys, 8
    values, rows of 128; noisy recall 16 noise tokens more, noise 0.2.
    """

    def __init__(self, n_keys: int = 8, n_values: int = 8, n_noise: int = 0, noise: float = 0.0, **rows: Any) -> None:
        for key, value, smallest in (("n_keys", n_keys, 1), ("n_values", n_values, 2), ("n_noise", n_noise, 0)):
            least(key, value, smallest)
        if not 0 <= noise < 1:
            raise UsageError(f"data.noise ({noise}) must be at least 0, below 1")
        if noise and not n_noise:
            raise UsageError(f"data.n_noise ({n_noise}) must be at least 1 where data.noise ({noise}) is not 0")
        names = (("k", n_keys), ("v", n_values), ("n", n_noise))
        super().__init__(
            [f"{kind}{i}" for kind, n in names for i in range(n)], answers=range(n_keys, n_keys + n_values), **rows
        )
        self.n_keys, self.n_values, self.n_noise, self.noise = n_keys, n_values, n_noise, noise

    def shortest(self) -> int:
        return 4

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        pairs, batch = length // 2, blank(rows, length)
        keys = rng.integers(self.n_keys, size=(rows, pairs))
        value_of = rng.integers(self.n_values, size=(rows, self.n_keys))
        noisy = rng.random((rows, pairs)) < self.noise
        # One pair at least is real, and the last repeats it.
        row, repeated = np.arange(rows), rng.integers(pairs - 1, size=rows)
        noisy[row, repeated], noisy[:, -1], keys[:, -1] = False, False, keys[row, repeated]
        values = np.take_along_axis(value_of, keys, axis=1)
        noise = self.n_keys + self.n_values + rng.integers(max(self.n_noise, 1), size=(rows, pairs, 2))
        start = length - 2 * pairs  # a row of odd length begins with a value too many
        batch.inputs[:, :start] = self.n_keys
        batch.inputs[:, start::2] = np.where(noisy, noise[..., 0], keys)
        batch.inputs[:, start + 1 :: 2] = np.where(noisy, noise[..., 1], self.n_keys + values)
        last = np.full((rows, self.n_keys), -1)
        for pair in range(pairs):
            key, real = keys[:, pair], ~noisy[:, pair]
            before, at = last[row, key], start + 2 * pair
            asked = real & (before >= 0)
            batch.targets[asked, at] = self.n_keys + values[asked, pair]
            batch.slices[asked, at] = magnitude(at - before[asked])
            last[row[real], key[real]] = at
        return batch
