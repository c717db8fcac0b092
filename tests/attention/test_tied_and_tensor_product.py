"""Tied keys and values, and tensor products, against their formulas written as plain loops."""

from functools import partial

import pytest
import torch
from torch import Tensor

from attnlab.attention.base import Attention
from attnlab.attention.mask import Window
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.rotary import RoPE
from attnlab.attention.score import QKNorm
from attnlab.attention.tensor_product import TensorProductAttention
from attnlab.attention.tied import TiedAttention
from attnlab.errors import UsageError

D, H, W, T = 24, 4, 6, 7
same = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def tokens() -> Tensor:
    return torch.randn(2, T, D, dtype=torch.float64)


def turned(y: Tensor, at: int) -> Tensor:
    """One vector turned pair by pair, by position * 10000^(-2i/d)."""
    out = y.clone()
    for i in range(len(y) // 2):
        angle = torch.tensor(at * 10000.0 ** (-2 * i / len(y)), dtype=y.dtype)
        a, b = y[2 * i], y[2 * i + 1]
        out[2 * i] = a * angle.cos() - b * angle.sin()
        out[2 * i + 1] = a * angle.sin() + b * angle.cos()
    return out


def attended(q: list[Tensor], k: list[Tensor], v: list[Tensor]) -> Tensor:
    """One head, one query after the other."""
    rows = []
    for i in range(len(q)):
        scores = torch.stack([q[i] @ k[j] / W**0.5 for j in range(i + 1)])
        rows.append(sum(w * v[j] for j, w in enumerate(scores.softmax(0))))
    return torch.stack(rows)


@pytest.mark.parametrize("kv", [1, 2, 4])
def test_tied_attention_is_its_formula(kv: int) -> None:
    layer, x = TiedAttention(D, n_heads=H, n_kv_heads=kv, position=RoPE).double(), tokens()
    for b in range(2):
        heads = []
        for h in range(H):
            g = h * kv // H
            w_q, w = layer.to_q.weight[h * W : (h + 1) * W], layer.to_kv.weight[g * W : (g + 1) * W]
            v = [w @ row for row in x[b]]
            q, k = [turned(w_q @ row, i) for i, row in enumerate(x[b])], [turned(row, i) for i, row in enumerate(v)]
            heads.append(attended(q, k, v))
        same(layer(x)[b], torch.cat(heads, dim=-1) @ layer.to_out.weight.T)


def numbers(layer: Attention, length: int) -> int:
    cache = layer.init_state(1, length).cache
    return cache.k.numel() + cache.v.numel()


def test_tied_cache() -> None:
    """Tied attention keeps half of what multi-head attention keeps."""
    assert 2 * numbers(TiedAttention(D, n_heads=H), 10) == numbers(MultiHeadAttention(D, n_heads=H), 10)


@pytest.mark.parametrize("ranks", [(6, 2, 2), (1, 3, 2)])
def test_tensor_product_attention_is_its_formula(ranks: tuple[int, int, int]) -> None:
    r_q, r_k, r_v = ranks
    layer = TensorProductAttention(D, n_heads=H, q_rank=r_q, k_rank=r_k, v_rank=r_v, position=RoPE).double()
    x = tokens()

    def head(made_by: torch.nn.Module, rank: int, row: Tensor, h: int, at: int) -> Tensor:
        total = torch.zeros(W, dtype=row.dtype)
        for r in range(rank):
            a = made_by.to_a.weight[r * H + h] @ row
            total = total + a * turned(made_by.to_b.weight[r * W : (r + 1) * W] @ row, at)
        return total / rank

    for b in range(2):
        heads = []
        for h in range(H):
            q = [head(layer.q, r_q, row, h, i) for i, row in enumerate(x[b])]
            k = [head(layer.k, r_k, row, h, i) for i, row in enumerate(x[b])]
            v = [head(layer.v, r_v, row, h, 0) for row in x[b]]
            heads.append(attended(q, k, v))
        same(layer(x)[b], torch.cat(heads, dim=-1) @ layer.to_out.weight.T)


def test_tensor_product_cache() -> None:
    """Tensor product attention keeps the factors alone."""
    layer = TensorProductAttention(D, n_heads=H, k_rank=3, v_rank=2)
    assert numbers(layer, 10) == 10 * (3 + 2) * (H + W)


def test_one_head_factor_is_multi_query() -> None:
    """Where the head factor is the same for all heads, every head has the same key and the same value."""
    layer = TensorProductAttention(D, n_heads=H, k_rank=1, v_rank=1, position=RoPE).double()
    with torch.no_grad():
        for made_by in (layer.k, layer.v):
            made_by.to_a.weight.copy_(made_by.to_a.weight[:1].expand(H, -1).clone())
    heads = layer.project(tokens())
    same(heads.k, heads.k[:, :1].expand_as(heads.k))
    same(heads.v, heads.v[:, :1].expand_as(heads.v))


def test_decoding_through_a_window() -> None:
    """Decoding through a window reads the factors of the window."""
    layer, x = TensorProductAttention(D, n_heads=H, position=RoPE, mask=partial(Window, window=3)).double(), tokens()
    state, rows = layer.init_state(2, T), []
    for piece in x.split([2, 1, 4], dim=1):
        y, state = layer.step(piece, state)
        rows.append(y)
    same(torch.cat(rows, dim=1), layer(x))


def test_what_cannot_be_lawful_is_refused() -> None:
    for make in (TiedAttention, TensorProductAttention):
        with pytest.raises(UsageError, match="QKNorm"):
            make(D, n_heads=H, score={"qk_norm": QKNorm})
    with pytest.raises(UsageError, match="Window"):
        TiedAttention(D, n_heads=H, mask=partial(Window, window=3))
    with pytest.raises(UsageError, match="k_rank"):
        TensorProductAttention(D, n_heads=H, k_rank=0)
