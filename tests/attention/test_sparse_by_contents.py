"""Attention that chooses its keys by what they hold: each rule as a plain loop."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from attnlab.attention.base import Attention
from attnlab.attention.block_topk import BlockTopKAttention, best
from attnlab.attention.heads import Heads
from attnlab.attention.indexed import IndexedAttention
from attnlab.attention.mask import Window
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.native_sparse import NativeSparseAttention
from attnlab.attention.rotary import RoPE
from attnlab.errors import UsageError

WIDTH, HEADS, T = 24, 4, 23
same = partial(torch.testing.assert_close, rtol=0.0, atol=1e-10)  # float64

Make = Callable[..., Attention]
moba: Make = partial(BlockTopKAttention, WIDTH, n_heads=HEADS, block=3, topk=2, position=RoPE)
dsa: Make = partial(IndexedAttention, WIDTH, n_heads=HEADS, topk=5, index_heads=3, index_dim=5, position=RoPE)
nsa: Make = partial(NativeSparseAttention, WIDTH, n_heads=HEADS, block=3, topn=2, window=4, position=RoPE)
full: Make = partial(MultiHeadAttention, WIDTH, n_heads=HEADS, position=RoPE)


def build(make: Make, **options: object) -> Attention:
    torch.manual_seed(0)
    layer = make(**options).double().eval()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p) * 0.4)
    return layer


def tokens(n: int = T, batch: int = 2) -> Tensor:
    return torch.randn(batch, n, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def softmax_over(q: Tensor, k: Tensor, read: list[int]) -> Tensor:
    """One row of a map: the softmax of q . k / sqrt(d) over the keys that are read, 0 elsewhere."""
    row = torch.zeros(k.size(0), dtype=k.dtype)
    e = torch.stack([(q @ k[j] / q.numel() ** 0.5).exp() for j in read])
    row[read] = e / e.sum()
    return row


def highest(rating: dict[int, float], n: int) -> list[int]:
    """The n keys of highest rating, of equal ones the lowest."""
    return sorted(rating, key=lambda i: (-rating[i], i))[:n]


def each_row(layer: Attention, x: Tensor, row: Callable[[Heads, int, int, int], Tensor]) -> Tensor:
    heads = layer.project(x)  # type: ignore[operator]
    return torch.stack(
        [
            torch.stack([torch.stack([row(heads, b, h, i) for i in range(x.size(1))]) for h in range(HEADS)])
            for b in range(x.size(0))
        ]
    )


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@torch.no_grad()
def test_moba_is_its_definition(n_kv_heads: int) -> None:
    layer, x, block, topk = build(moba, n_kv_heads=n_kv_heads), tokens(), 3, 2

    def row(heads: Heads, b: int, h: int, i: int) -> Tensor:
        q, k = heads.q[b, h, i], heads.k[b, h * n_kv_heads // HEADS]
        past = {n: float(q @ k[n * block : (n + 1) * block].mean(dim=0)) for n in range(i // block)}
        chosen = [*highest(past, topk), i // block]
        return softmax_over(q, k, [j for j in range(i + 1) if j // block in chosen])

    same(layer.weights(x), each_row(layer, x, row))


def index(layer: Attention, x: Tensor, t: int, s: int) -> Tensor:
    """I_ts of one row of the batch, from the layer's matrices."""
    assert isinstance(layer, IndexedAttention)
    q = (layer.to_index_q.weight @ x[t]).reshape(layer.index_heads, -1)
    k, w = layer.to_index_k.weight @ x[s], layer.to_index_w.weight @ x[t]
    return sum((w[j] * (q[j] @ k).clamp(min=0) for j in range(layer.index_heads)), torch.zeros((), dtype=x.dtype))


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@torch.no_grad()
def test_dsa_is_its_definition(n_kv_heads: int) -> None:
    layer, x = build(dsa, n_kv_heads=n_kv_heads), tokens()
    chosen = [[highest({s: float(index(layer, row, t, s)) for s in range(t + 1)}, 5) for t in range(T)] for row in x]

    def row(heads: Heads, b: int, h: int, i: int) -> Tensor:
        return softmax_over(heads.q[b, h, i], heads.k[b, h * n_kv_heads // HEADS], sorted(chosen[b][i]))

    same(layer.weights(x), each_row(layer, x, row))


def test_indexer_gradient() -> None:
    """The indexer learns as if its rating were part of the scores and changes no value."""
    layer, x = build(dsa), tokens(11, batch=1).requires_grad_()
    assert isinstance(layer, IndexedAttention)
    with torch.no_grad():
        without = layer(x)
    y = layer(x)
    assert torch.equal(y, without)
    heads = layer.project(x)
    rating = torch.stack([torch.stack([index(layer, x[0].detach(), t, s) for s in range(11)]) for t in range(11)])
    pos = torch.arange(11)
    kept = layer.content_mask(heads, pos, pos) & layer.visible(pos, pos)
    scores = heads.q @ heads.k.mT * heads.q.size(-1) ** -0.5 + (rating - rating.detach())
    dense = layer.merge(scores.masked_fill(~kept, -torch.inf).softmax(dim=-1) @ heads.v, heads)
    names, wanted = zip(("x", x), *layer.named_parameters(), strict=True)
    aim = tokens(11, batch=1).flip(-1)
    found, expected = (torch.autograd.grad((out * aim).sum(), wanted) for out in (y, dense))
    for name, a, b in zip(names, found, expected, strict=True):
        assert b.abs().max() > 1e-6, name
        same(a, b)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@torch.no_grad()
def test_nsa_is_its_definition(n_kv_heads: int) -> None:
    layer, x, block, topn, window = build(nsa, n_kv_heads=n_kv_heads), tokens(), 3, 2, 4
    assert isinstance(layer, NativeSparseAttention)
    per_key_head = HEADS // n_kv_heads

    def over_blocks(heads: Heads, b: int, h: int, i: int) -> Tensor:
        g = h // per_key_head
        pool = layer.pool_k[g].softmax(dim=0)
        pooled = [pool @ heads.k[b, g, n * block : (n + 1) * block] for n in range((i + 1) // block)]
        return (
            softmax_over(heads.q[b, h, i], torch.stack(pooled), list(range(len(pooled)))) if pooled else x.new_zeros(0)
        )

    def row(heads: Heads, b: int, h: int, i: int) -> Tensor:
        g = h // per_key_head
        q, k, gate = (
            heads.q[b, h, i],
            heads.k[b, g],
            (layer.to_gates.weight @ x[b, i]).sigmoid().reshape(3, HEADS)[:, h],
        )
        compressed = torch.zeros(T, dtype=x.dtype)
        for n, weight in enumerate(over_blocks(heads, b, h, i)):
            compressed[n * block : (n + 1) * block] = weight * layer.pool_v[g].softmax(dim=0)
        group = [over_blocks(heads, b, other, i) for other in range(g * per_key_head, (g + 1) * per_key_head)]
        rating = {n: float(sum(float(one[n]) for one in group)) for n in range(i // block)}
        chosen = [*highest(rating, topn), i // block]
        selected = softmax_over(q, k, [j for j in range(i + 1) if j // block in chosen])
        return (
            gate[0] * compressed
            + gate[1] * selected
            + gate[2] * softmax_over(q, k, list(range(max(0, i - window + 1), i + 1)))
        )

    same(layer.weights(x), each_row(layer, x, row))


@torch.no_grad()
def test_no_summary_of_a_partial_block() -> None:
    """Without a whole block there is no summary."""
    layer, x = build(nsa, block=5), tokens()
    assert isinstance(layer, NativeSparseAttention)
    torch.nn.init.zeros_(layer.to_gates.weight)  # every gate is 1/2
    sums = layer.weights(x).sum(dim=-1)  # type: ignore[union-attr]
    same(sums[..., :4], torch.ones_like(sums[..., :4]))
    same(sums[..., 4:], torch.full_like(sums[..., 4:], 1.5))


# Ties, decoding, refusals


def test_ties() -> None:
    """Of ratings equal but for rounding the earliest wins."""
    rating = torch.tensor([0.3, 0.1 + 0.2, 0.3, 1.0, 9.0], dtype=torch.float64)[None, None, None]
    assert rating[..., 1] > rating[..., 0]
    allowed = torch.tensor([[True, True, True, True, False]])
    for topk, chosen in ((1, [3]), (2, [0, 3]), (3, [0, 1, 3]), (9, [0, 1, 2, 3])):
        assert best(rating, allowed, topk).flatten().nonzero().flatten().tolist() == chosen


@pytest.mark.parametrize("make", [moba, dsa, nsa])
@pytest.mark.parametrize("cut", [[T], [1] * T, [4, 1, 1, 10, 7]])
@torch.no_grad()
def test_decoding_chooses_as_the_whole_does(make: Make, cut: list[int]) -> None:
    layer, x = build(make, n_kv_heads=2), tokens()
    x[:, 9:17] = x[:, 1:9]  # repeated tokens: ratings that tie but for rounding
    state, out = layer.init_state(2, T), []
    for piece in x.split(cut, dim=1):
        y, state = layer.step(piece, state)
        out.append(y)
    same(torch.cat(out, dim=1), layer(x))


@torch.no_grad()
def test_dsa_caches_the_keys_of_its_indexer_once() -> None:
    x = tokens()
    held = {}
    for name, make in (("dsa", partial(dsa, index_dim=6)), ("full", full)):
        layer = build(make, n_kv_heads=2)
        cache = layer.step(x, layer.init_state(2, T))[1].cache
        held[name] = cache.k.size(1) * cache.k.size(3)
    assert held["dsa"] == held["full"] + 6


@pytest.mark.parametrize(
    ("make", "options", "complaint"),
    [
        (moba, {"block": 0}, r"block \(0\) must be an integer of at least 1"),
        (moba, {"topk": 0}, r"topk \(0\) must be an integer of at least 1"),
        (moba, {"mask": partial(Window, 4)}, r"attention/mask \(Window\) must be causal"),
        (dsa, {"topk": 0}, r"topk \(0\) must be an integer of at least 1"),
        (dsa, {"index_dim": 0}, r"index_dim \(0\) must be an integer of at least 1"),
        (dsa, {"mask": partial(Window, 4)}, r"attention/mask \(Window\) must be causal"),
        (nsa, {"topn": 0}, r"topn \(0\) must be an integer of at least 1"),
        (nsa, {"window": 0}, r"window \(0\) must be an integer of at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Make, options: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        make(**options)
