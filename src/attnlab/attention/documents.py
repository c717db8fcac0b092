"""Documents packed into one row, which do not see each other."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from attnlab.attention.uncompiled import uncompiled

ALIKE = 1.4  # documents are run side by side where the longest is at most so many times as long as the shortest
FEW = 16  # tokens up to which all are alike


class Documents:
    """Which document each token belongs to: rows of numbers 0, 1, 2, ... that never fall.

    Made once for each pass. What every layer needs of them is computed when it is first asked for, and kept.

    `batches` are the documents of all rows, those of like length side by side: where each of their tokens stands in the
    flattened rows. A shorter one is filled up behind its end by its last token again, which under a causal rule changes
    nothing before it.
    """

    def __init__(self, ids: Int[Tensor, "b t"]) -> None:
        self.ids = ids
        self._first_tokens: dict[int, Tensor] = {}

    @cached_property
    def starts(self) -> Bool[Tensor, "b t"]:
        """The first token of each document."""
        first = torch.ones_like(self.ids, dtype=torch.bool)
        first[:, 1:] = self.ids[:, 1:] != self.ids[:, :-1]
        return first

    @cached_property
    def positions(self) -> Int[Tensor, "b t"]:
        """The place of each token in its document, from 0."""
        in_row = torch.arange(self.ids.size(1), device=self.ids.device).expand_as(self.ids)
        return in_row - in_row.where(self.starts, 0).cummax(dim=1).values

    @cached_property
    def same(self) -> Bool[Tensor, "b t s"]:
        """Whether two tokens are of one document."""
        return self.ids[:, :, None] == self.ids[:, None, :]

    def first_tokens(self, n: int) -> Int[Tensor, " m"]:
        """Where the first `n` tokens of each document but a row's first stand in the flattened rows; an accelerator is
        waited for."""
        if n not in self._first_tokens:
            first = (self.positions < n) & (self.ids > self.ids[:, :1])
            self._first_tokens[n] = first.flatten().nonzero()[:, 0]
        return self._first_tokens[n]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """The first token of each document in the flattened rows, and its length; an accelerator is waited for."""
        firsts = self.starts.flatten().nonzero()[:, 0].tolist()
        return [(a, b - a) for a, b in zip(firsts, [*firsts[1:], self.ids.numel()], strict=True)]

    @cached_property
    def batches(self) -> list[Int[Tensor, "n l"]]:
        batches: list[list[tuple[int, int]]] = []
        for span in sorted(self.spans, key=lambda span: -span[1]):
            if not batches or batches[-1][0][1] > max(FEW, ALIKE * span[1]):
                batches.append([])
            batches[-1].append(span)
        return [self._indices(batch) for batch in batches]

    def _indices(self, batch: list[tuple[int, int]]) -> Int[Tensor, "n l"]:
        first, length = torch.tensor(batch).T[:, :, None]
        longest = min(-(-batch[0][1] // FEW) * FEW, self.ids.size(1))  # few lengths: masks made for one serve again
        return (first + torch.arange(longest).minimum(length - 1)).to(self.ids.device)

    @cached_property
    def own(self) -> list[Bool[Tensor, "n l"]]:
        """Which tokens of each of the `batches` are a document's own, and not filled up."""
        return [batch.diff(dim=1, prepend=batch[:, :1] - 1) > 0 for batch in self.batches]

    @cached_property
    def there(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " bt"], Int[Tensor, " f"]]:
        """The tokens of all `batches`, where each token of the flattened rows went in them, and what is filled up."""
        tokens, own = (torch.cat([part.flatten() for part in parts]) for parts in (self.batches, self.own))
        order = tokens.new_empty(self.ids.numel()).scatter_(0, tokens[own], own.nonzero()[:, 0])
        return tokens, order, (~own).nonzero()[:, 0]

    @uncompiled
    def apart(self, x: Shaped[Tensor, "..."], dim: int) -> list[Shaped[Tensor, "..."]]:
        """`x`, whose tokens are axis `dim`, as one tensor for each of the `batches`."""
        tokens, order, filled = self.there
        rows = _Rows.apply(x.movedim(dim, 1).flatten(0, 1), tokens, order, filled[:0])
        parts = rows.split([batch.numel() for batch in self.batches])
        return [part.unflatten(0, batch.shape).movedim(1, dim) for part, batch in zip(parts, self.batches, strict=True)]

    @uncompiled
    def together(self, parts: list[Shaped[Tensor, "..."]], dim: int) -> Shaped[Tensor, "..."]:
        """The opposite of `apart`: what was filled up is dropped."""
        tokens, order, filled = self.there
        rows = torch.cat([part.movedim(dim, 1).flatten(0, 1) for part in parts])
        return _Rows.apply(rows, order, tokens, filled).unflatten(0, self.ids.shape).movedim(1, dim)

    def blocks(self, maps: list[Float[Tensor, "_ h _ _"]]) -> Float[Tensor, "b h t t"]:
        """The maps of all documents as those of whole rows, zero where two tokens are of different documents."""
        b, t = self.ids.shape
        whole = maps[0].new_zeros(b, maps[0].size(1), t, t)
        for batch, its_maps in zip(self.batches, maps, strict=True):
            for first, end, own in zip(batch[:, 0].tolist(), batch[:, -1].tolist(), its_maps, strict=True):
                here, n = slice(first % t, end % t + 1), end - first + 1
                whole[first // t, :, here, here] = own[:, :n, :n]
        return whole


class _Rows(torch.autograd.Function):
    """The rows at `there`. On the way back the gradients at `back`, but none at `filled`: a gather, too, where torch
    would add one row after the other, which takes several times as long."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor, filled: Tensor) -> Tensor:
        ctx.save_for_backward(back, filled)
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        back, filled = ctx.saved_tensors
        return gradients[0].index_select(0, back).index_fill_(0, filled, 0.0), None, None, None


def say_again(cls: Any, *methods: str) -> None:
    """Take back `documents`, which a class inherits, where it writes one of these methods anew and does not say it."""
    if "documents" not in vars(cls) and any(name in vars(cls) for name in methods):
        cls.documents = False


Start = int | Documents  # where tokens stand: the position of the first, or the documents that count them each


def positions(start: Start, n: int, device: torch.device) -> Int[Tensor, "*b n"]:
    """Where n tokens stand: (n,), or (b, 1, n) beside heads where each row has documents of its own."""
    if isinstance(start, Documents):
        return start.positions[:, None].to(device)
    return torch.arange(start, start + n, device=device)


def rows_at(start: Start, n: int, tabulate: Callable[[int], Tensor]) -> Tensor:
    """The rows of a table at the positions of n tokens; `tabulate` makes the first so many of them, or more."""
    if isinstance(start, Documents):
        return tabulate(n)[start.positions][:, None]
    return tabulate(start + n)[start : start + n]


def reach(start: Start, n: int) -> int:
    """How many positions n tokens need: those up to the last of them, or as many as the longest document has tokens."""
    return max(length for _, length in start.spans) if isinstance(start, Documents) else start + n
