"""A band of the map in blocks: where queries read only the latest keys, nothing else is computed or stored."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

SMALLEST = 32  # queries of a block: with fewer, handling a block takes longer than its products


class Blocks(NamedTuple):
    """Cuts queries into blocks that each read their own keys and just enough earlier ones.

    Block i holds the queries i * size .. (i + 1) * size and reads the `reach` keys that end with its last query's own,
    where reach >= band + size - 1, so that T * reach pairs are computed in place of T * T. Positions below 0, and from
    T on, are padding: the first are hidden from all, the others are seen by queries that are cut off again.

    Source: the blocks of Longformer's band, arXiv 2004.05150, with overlapping views of the keys in place of copies.
    """

    length: int
    size: int
    n_blocks: int
    reach: int

    @classmethod
    def of(cls, length: int, band: int | None) -> "Blocks":
        """The cut of `length` tokens whose queries read the last `band` keys: one block of all where that is better."""
        if band is None or length <= max(4 * band, 2 * SMALLEST):
            return cls(length, length, 1, length)
        size = max(SMALLEST, band // 2)  # small blocks read little that is hidden, large ones are quicker per pair
        return cls(length, size, -(-length // size), band - 1 + size)

    def queries(self, q: Float[Tensor, "b h t d"]) -> Float[Tensor, "blocks bh size d"]:
        """The queries of each block, rows of the batch beside heads."""
        padded = F.pad(q, (0, 0, 0, self.n_blocks * self.size - self.length))
        return padded.flatten(0, 1).unflatten(1, (self.n_blocks, self.size)).transpose(0, 1)

    def keys(self, k: Float[Tensor, "b g t d"]) -> Float[Tensor, "blocks bg reach d"]:
        """The keys, or values, that each block reads: views, since neighbours read many of the same."""
        before, after = self.reach - self.size, self.n_blocks * self.size - self.length
        return F.pad(k, (0, 0, before, after)).flatten(0, 1).unfold(1, self.reach, self.size).permute(1, 0, 3, 2)

    def joined(self, o: Float[Tensor, "blocks bh size v"], batch: int) -> Float[Tensor, "b h t v"]:
        """The outputs of all blocks as one sequence again."""
        return o.transpose(0, 1).flatten(1, 2)[:, : self.length].unflatten(0, (batch, -1))

    def positions(self, device: torch.device) -> Iterator[tuple[Int[Tensor, " size"], Int[Tensor, " reach"]]]:
        """Where the queries and the keys of each block stand."""
        for block in range(1, self.n_blocks + 1):
            end = block * self.size
            yield torch.arange(end - self.size, end, device=device), torch.arange(end - self.reach, end, device=device)
