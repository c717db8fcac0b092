"""What tensors go through between their layout and ours: moves of numbers, each with its inverse, exact in any type."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Move = Callable[[Sequence[Tensor], Any], list[Tensor]]  # of tensors of a layer, whose attention is told


class Transform(NamedTuple):
    """From theirs to ours and back; the attention of the layer tells how many heads there are, and how wide."""

    ours: Move
    theirs: Move


def each(ours: Callable[[Tensor, Any], Tensor], theirs: Callable[[Tensor, Any], Tensor]) -> Transform:
    """One tensor for one tensor."""
    return Transform(lambda x, a: [ours(t, a) for t in x], lambda x, a: [theirs(t, a) for t in x])


def then(first: Transform, second: Transform) -> Transform:
    """From theirs to ours by both, in this order."""
    return Transform(lambda x, a: second.ours(first.ours(x, a), a), lambda x, a: first.theirs(second.theirs(x, a), a))


SAME = each(lambda t, _: t, lambda t, _: t)
# Of a Conv1D, as GPT-2 has it, whose matrix is (inputs, outputs).
TRANSPOSED = each(lambda t, _: t.T if t.dim() == 2 else t, lambda t, _: t.T if t.dim() == 2 else t)


def _width(attention: Any) -> int:
    """How many coordinates of a head are rotated."""
    return int(getattr(attention.position, "width", 0))


def _to_pairs(t: Tensor, attention: Any) -> Tensor:
    return _by_head(t, attention, lambda x, w: x.unflatten(1, (2, w // 2)).transpose(1, 2).flatten(1, 2))


def _to_halves(t: Tensor, attention: Any) -> Tensor:
    return _by_head(t, attention, lambda x, w: x.unflatten(1, (w // 2, 2)).transpose(1, 2).flatten(1, 2))


def _by_head(t: Tensor, attention: Any, order: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The rows of each head in another order, those that are rotated; the other rows stay."""
    if not (width := _width(attention)):
        return t
    heads = t.unflatten(0, (-1, attention.head_dim))
    return torch.cat([order(heads[:, :width], width), heads[:, width:]], dim=1).flatten(0, 1)


# Rows of queries and keys: they rotate coordinate i with i + d/2, we with its neighbour.
PAIRS = each(_to_pairs, _to_halves)
SWAPPED = each(
    lambda t, a: _by_head(t, a, lambda x, w: x.unflatten(1, (w // 2, 2)).flip(2).flatten(1, 2)),
    lambda t, a: _by_head(t, a, lambda x, w: x.unflatten(1, (w // 2, 2)).flip(2).flatten(1, 2)),
)  # neighbours in the other order, where they rotate against us


def parts(sizes: Callable[[Any], Sequence[int]]) -> Transform:
    """One tensor of theirs holds several of ours, one below the other, of so many rows each."""
    return Transform(
        lambda x, a: list(x[0].split(list(sizes(a)))),
        lambda x, a: [torch.cat(list(x))],
    )


def _qkv_rows(attention: Any) -> list[int]:
    keys = attention.n_kv_heads * attention.head_dim
    return [attention.n_heads * attention.head_dim, keys, attention.n_kv_heads * attention.value_dim]


HALVES = Transform(lambda x, a: list(x[0].chunk(2)), lambda x, a: [torch.cat(list(x))])  # two, of as many rows each
QKV_ROWS = parts(_qkv_rows)  # all queries, then all keys, then all values


def _rotated(x: Sequence[Tensor], attention: Any, order: Callable[[Tensor, Any], Tensor]) -> list[Tensor]:
    q, k, v = x
    return [order(q, attention), order(k, attention), v]


PAIRS_OF_QK = Transform(lambda x, a: _rotated(x, a, _to_pairs), lambda x, a: _rotated(x, a, _to_halves))


def _grouped_to_ours(x: Sequence[Tensor], attention: Any) -> list[Tensor]:
    """(g, queries per group + 2, d): for each key head its queries, its key and its value."""
    per = attention.n_heads // attention.n_kv_heads
    groups = x[0].unflatten(0, (attention.n_kv_heads, per + 2, attention.head_dim))
    return [part.flatten(0, 2) for part in groups.split([per, 1, 1], dim=1)]


def _grouped_to_theirs(x: Sequence[Tensor], attention: Any) -> list[Tensor]:
    groups = [t.unflatten(0, (attention.n_kv_heads, -1, attention.head_dim)) for t in x]
    return [torch.cat(groups, dim=1).flatten(0, 2)]


QKV_BY_GROUP = Transform(_grouped_to_ours, _grouped_to_theirs)


def _in_four(x: Sequence[Tensor], attention: Any) -> list[Tensor]:
    return [part.flatten(0, 1) for part in x[0].unflatten(0, (4, 3, -1)).unbind(1)]


# Of four parts of a model, one below the other, each with its share of the queries, then the values, then the keys.
QVK_IN_FOUR = Transform(
    _in_four,
    lambda x, a: [torch.stack([t.unflatten(0, (4, -1)) for t in x], dim=1).flatten(0, 2)],
)


def by_group(n: Callable[[Any], int], sizes: Callable[[Any], Sequence[int]]) -> Transform:
    """One tensor of theirs holds several of ours group by group, of so many rows each in each of n groups."""
    return Transform(
        lambda x, a: [part.flatten(0, 1) for part in x[0].unflatten(0, (n(a), -1)).split(list(sizes(a)), dim=1)],
        lambda x, a: [torch.cat([part.unflatten(0, (n(a), -1)) for part in x], dim=1).flatten(0, 1)],
    )


STACKED = Transform(lambda x, _: [torch.stack(list(x))], lambda x, _: list(x[0].unbind()))  # several as one of ours
# Of a convolution of each channel by itself: theirs has a dimension of one input channel.
CHANNELWISE = each(lambda t, _: t[:, 0] if t.dim() == 3 else t, lambda t, _: t[:, None] if t.dim() == 2 else t)
