"""A band of the map in blocks: where queries read only the latest keys, nothing else is computed or stored."""

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from attnlab.attention.heads import Heads
from attnlab.attention.signature import with_signature
from attnlab.attention.uncompiled import uncompiled

SMALLEST = 32  # queries of a block: with fewer, handling a block takes longer than its products
FEWEST, HANDLING = 1024, 1 << 15  # tokens from which a sparse map may be cut, and pairs that a cut must save
Cut = tuple[Tensor, Tensor]  # positions of queries, and of all keys that these may read


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

    def queries(self, q: Shaped[Tensor, "b h t d"]) -> Shaped[Tensor, "blocks bh size d"]:
        """The queries of each block, rows of the batch beside heads."""
        padded = F.pad(q, (0, 0, 0, self.n_blocks * self.size - self.length))
        return padded.flatten(0, 1).unflatten(1, (self.n_blocks, self.size)).transpose(0, 1)

    def keys(self, k: Shaped[Tensor, "b g t d"]) -> Shaped[Tensor, "blocks bg keys d"]:
        """The keys, or values, that each block reads; without sinks views, since neighbours read many of the same."""
        before, after = self.reach - self.size, self.n_blocks * self.size - self.length
        latest = Overlapping.apply(F.pad(k, (0, 0, before, after)).flatten(0, 1), self.reach, self.size)
        if not self.sinks:
            return latest
        return torch.cat([k[:, :, : self.sinks].flatten(0, 1).expand(self.n_blocks, -1, -1, -1), latest], dim=2)

    def same(self, documents: Int[Tensor, "b t"]) -> Iterator[Bool[Tensor, "blocks 1 size keys"]]:
        """Of each row, which keys are of the query's own document; what is padding counts as document 0."""
        numbers = documents[:, None, :, None]
        yield from (self.queries(numbers) == self.keys(numbers).mT).split(1, dim=1)

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


class Overlapping(torch.autograd.Function):
    """The `reach` rows from every `size`th on, as views. On the way back windows are added up part by part, which adds
    the same numbers in the same order as torch's own way back, one number after the other, in half its time."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(x: Shaped[Tensor, "n t d"], reach: int, size: int) -> Shaped[Tensor, "blocks n reach d"]:
        return x.unfold(1, reach, size).permute(1, 0, 3, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        ctx.reach, ctx.size = inputs[1:]

    @staticmethod
    def backward(ctx: Any, slope: Float[Tensor, "blocks n reach d"]) -> tuple[Tensor, None, None]:
        blocks, n, reach, d = slope.shape
        parts = -(-reach // ctx.size)
        whole = slope.new_zeros(n, blocks + parts - 1, ctx.size, d)
        for part, of_part in reversed(list(enumerate(slope.split(ctx.size, dim=2)))):
            whole[:, part : part + blocks, : of_part.size(2)] += of_part.transpose(0, 1)
        return whole.flatten(1, 2)[:, : reach + (blocks - 1) * ctx.size], None, None


@uncompiled  # one kernel call per row, which the compiler could only repeat
def attend_in_blocks(
    kernel: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor | None],
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b g t d"],
    v: Float[Tensor, "b g t v"],
    blocks: Blocks,
    allowed: Shaped[Tensor, " blocks #h size keys"],
    documents: Int[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b h t v"] | None:
    """Where queries read the latest keys only, memory and time grow with the length, and not with its square.

    kernel(q, k, v, allowed) attends, or gives None where it cannot. Tokens of different `documents` are hidden.
    """
    # One mask serves all rows of the batch; biases, which differ from head to head, are not copied for each row.
    rows = q.size(0) if allowed.size(1) == 1 and documents is None else 1
    masks = repeat(allowed) if documents is None else (allowed & same for same in blocks.same(documents))
    outputs = []
    for some_q, some_k, some_v, mask in zip(q.split(rows), k.split(rows), v.split(rows), masks, strict=False):
        o = kernel(blocks.queries(some_q), blocks.keys(some_k), blocks.keys(some_v), mask)
        if o is None:
            return None
        outputs.append(blocks.joined(o, rows))
    return torch.cat(outputs)


def strided_cuts(length: int, stride: int, device: torch.device) -> list[Cut]:
    """Queries a stride apart, which share their keys from before the latest `stride`, one in `stride`."""
    n, cuts = max(4, min(SMALLEST, 512 // stride)), list[Cut]()  # queries of a cut, whose latest keys are n * stride
    for start in range(0, length, n * stride):
        for first in range(start, min(start + stride, length)):
            q_pos = torch.arange(first, min(start + n * stride, length), stride, device=device)
            near, stop = max(0, first - stride + 1), first + (q_pos.numel() - 1) * stride + 1
            far = torch.arange(min(first % stride, near), near, stride, device=device)
            cuts.append((q_pos, torch.cat([far, torch.arange(near, stop, device=device)])))
    return _worth_it(cuts, length)


def local_global_cuts(length: int, window: int, every: int, device: torch.device) -> list[Cut]:
    """Global queries with all keys, and between them blocks of others with a window and the global keys before it."""
    cuts, size = list[Cut](), max(SMALLEST, window)
    for start in range(0, length, SMALLEST * every):
        q_pos = torch.arange(start, min(start + SMALLEST * every, length), every, device=device)
        cuts.append((q_pos, torch.arange(start + (q_pos.numel() - 1) * every + 1, device=device)))
    for start in range(0, length, size):
        near, stop = max(0, start - window + 1), min(start + size, length)
        if local := [i for i in range(start, stop) if i % every]:
            far = torch.arange(0, near, every, device=device)
            k_pos = torch.cat([far, torch.arange(near, stop, device=device)])
            cuts.append((torch.tensor(local, device=device), k_pos))
    return _worth_it(cuts, length)


def _worth_it(cuts: list[Cut], length: int) -> list[Cut]:
    work = sum(2 * q_pos.numel() * k_pos.numel() + HANDLING for q_pos, k_pos in cuts)
    return cuts if work < length**2 else []


def cut_heads(heads: Heads, cuts: list[Cut]) -> list[Heads]:
    """What each cut reads. All is gathered at once: on the way back each gathering fills a whole sequence."""

    def parts(x: Tensor | None, side: int) -> Sequence[Any]:
        pos = [cut[side] for cut in cuts]
        return [None] * len(cuts) if x is None else x[:, :, torch.cat(pos)].split([one.numel() for one in pos], dim=2)

    q, asked = (parts(x, 0) for x in (heads.q, heads.asked))
    k, v, carried = (parts(x, 1) for x in (heads.k, heads.v, heads.carried))
    return [heads._replace(q=q[i], k=k[i], v=v[i], carried=carried[i], asked=asked[i]) for i in range(len(cuts))]
