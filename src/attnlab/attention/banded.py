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
    where reach >= band + size - 1, so that T * reach pairs are computed in place of T * T; before them come the first
    `sinks` tokens of the text, where a mask shows these to all. Positions below 0, and from T on, are padding: the
    first are hidden from all, the others are seen by queries that are cut off again.

    Source: the blocks of Longformer's band, arXiv 2004.05150, with overlapping views of the keys in place of copies.
    """

    length: int
    size: int
    n_blocks: int
    reach: int
    sinks: int = 0

    @classmethod
    def of(cls, length: int, band: int | None, sinks: int = 0) -> "Blocks":
        """The cut of `length` tokens whose queries read the last `band` keys and the first `sinks` of all.

        One block of everything where that is better.
        """
        if band is None or length <= max(4 * (band + sinks), 2 * SMALLEST):
            return cls(length, length, 1, length)
        size = max(SMALLEST, band // 2)  # small blocks read little that is hidden, large ones are quicker per pair
        return cls(length, size, -(-length // size), band - 1 + size, sinks)

    def queries(self, q: Float[Tensor, "b h t d"]) -> Float[Tensor, "blocks bh size d"]:
        """The queries of each block, rows of the batch beside heads."""
        padded = F.pad(q, (0, 0, 0, self.n_blocks * self.size - self.length))
        return padded.flatten(0, 1).unflatten(1, (self.n_blocks, self.size)).transpose(0, 1)

    def keys(self, k: Float[Tensor, "b g t d"]) -> Float[Tensor, "blocks bg keys d"]:
        """The keys, or values, that each block reads; without sinks views, since neighbours read many of the same."""
        before, after = self.reach - self.size, self.n_blocks * self.size - self.length
        latest = F.pad(k, (0, 0, before, after)).flatten(0, 1).unfold(1, self.reach, self.size).permute(1, 0, 3, 2)
        if not self.sinks:
            return latest
        return torch.cat([k[:, :, : self.sinks].flatten(0, 1).expand(self.n_blocks, -1, -1, -1), latest], dim=2)

    def joined(self, o: Float[Tensor, "blocks bh size v"], batch: int) -> Float[Tensor, "b h t v"]:
        """The outputs of all blocks as one sequence again."""
        return o.transpose(0, 1).flatten(1, 2)[:, : self.length].unflatten(0, (batch, -1))

    def positions(self, device: torch.device) -> Iterator[tuple[Int[Tensor, " size"], Int[Tensor, " keys"]]]:
        """Where the queries and the keys of each block stand; a sink among the latest keys is hidden there."""
        sinks = torch.arange(self.sinks, device=device)
        for block in range(1, self.n_blocks + 1):
            end = block * self.size
            latest = torch.arange(end - self.reach, end, device=device)
            yield (
                torch.arange(end - self.size, end, device=device),
                torch.cat([sinks, latest.where(latest >= self.sinks, -1)]),
            )

    def cuts(self, device: torch.device) -> Iterator[tuple[Int[Tensor, " size"], Int[Tensor, " keys"]]]:
        """The same without padding, for rules that are written out block by block."""
        for start in range(0, self.length, self.size):
            first, stop = max(0, start + self.size - self.reach), min(start + self.size, self.length)
            sinks = torch.arange(min(self.sinks, first), device=device)
            yield torch.arange(start, stop, device=device), torch.cat([sinks, torch.arange(first, stop, device=device)])
