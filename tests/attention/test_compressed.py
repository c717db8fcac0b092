"""Summaries of blocks, choices that layers share, and last layers without keys: each rule as a plain loop."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from attnlab.attention.base import Attention, Shared
from attnlab.attention.compressed import HeavilyCompressedAttention
from attnlab.attention.compressor import Compressor
from attnlab.attention.factorized import MultiMatrixFactorizationAttention
from attnlab.attention.grouped_latent import GroupedLatentAttention
from attnlab.attention.index_sharing import IndexChoice, IndexPickerAttention, IndexReaderAttention
from attnlab.attention.latent import LatentAttention
from attnlab.attention.mask import Window
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.rotary import RoPE
from attnlab.attention.tail_sharing import TailSharingAttention
from attnlab.errors import UsageError

WIDTH, HEADS, T = 16, 2, 11
same = partial(torch.testing.assert_close, rtol=0.0, atol=1e-10)  # float64
SIZES = {"n_heads": HEADS, "position": RoPE}


def build(kind: type[Attention], **options: object) -> Attention:
    torch.manual_seed(0)
    layer = kind(WIDTH, **{**SIZES, **options}).double().eval()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p) * 0.4)
    return layer


def tokens(n: int = T) -> Tensor:
    return torch.randn(1, n, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + 2.0**-23).sqrt()


@pytest.mark.parametrize("overlap", [False, True])
@torch.no_grad()
def test_summary_of_a_block(overlap: bool) -> None:
    """A weighted mean of the block's contents, channel by channel, and of those that the block before made for it."""
    torch.manual_seed(0)
    pool, x, m, d = Compressor(WIDTH, 5, 3, overlap=overlap).double(), tokens(9)[0], 3, 5
    torch.nn.init.normal_(pool.bias)
    content, logit = pool.to_content(x), pool.to_logit(x)
    for n in range(3):
        total = weight = torch.zeros(d, dtype=torch.float64)
        for j in range((n - overlap) * m, (n + 1) * m):
            own = slice(d * (overlap and j >= n * m), d * (1 + (overlap and j >= n * m)))
            if j >= 0:
                e = (logit[j, own] + pool.bias[j % m, own]).exp()
                total, weight = total + e * content[j, own], weight + e
        rows = pool(x[None, max(0, n - overlap) * m : (n + 1) * m])
        if overlap and not n:  # what stands before the first block counts for nothing
            rows = torch.cat([torch.ones_like(rows), rows], dim=1)
        same(pool.pool(rows, n)[0, 0], pool.norm(total / weight))


@torch.no_grad()
def test_hca_is_its_definition() -> None:
    layer, x = build(HeavilyCompressedAttention, block=3, window=2), tokens()
    assert isinstance(layer, HeavilyCompressedAttention)
    d, rope = WIDTH // HEADS, layer.position
    q = rms((layer.to_q(layer.q_latent_norm(layer.to_q_latent(x)))).unflatten(-1, (HEADS, d)))[0]
    kv, blocks = layer.kv_norm(layer.to_kv(x))[0], layer.compressor.pool(layer.compressor(x)[:, : T // 3 * 3], 0)[0]
    turned = {("token", j): rope.rotate(kv[None, None, j : j + 1], j).flatten() for j in range(T)}
    turned |= {("block", n): rope.rotate(blocks[None, None, n : n + 1], 3 * n).flatten() for n in range(T // 3)}
    out = torch.zeros(T, HEADS, d, dtype=torch.float64)
    for i in range(T):
        read = [u for (kind, n), u in turned.items() if (i - 2 < n <= i if kind == "token" else 3 * n + 2 <= i)]
        for h in range(HEADS):
            query = rope.rotate(q[None, None, i : i + 1, h], i).flatten()
            e = torch.stack([(query @ u / math.sqrt(d)).exp() for u in read])
            a = e / (e.sum() + layer.sink.logit[h].exp())
            pairs = torch.view_as_complex((a @ torch.stack(read)).unflatten(-1, (-1, 2)))
            angles = i * 10000.0 ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
            out[i, h] = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), -angles)).flatten()
    same(layer(x)[0], layer.to_out(out.flatten(1)))


def test_no_room_for_blocks() -> None:
    layer = build(HeavilyCompressedAttention, block=3)
    with pytest.raises(UsageError, match="the decode state has room for 1 blocks, not 2"):
        layer.step(tokens(6), layer.init_state(1, 5))


@torch.no_grad()
def test_a_choice_is_read() -> None:
    """A layer without an indexer reads the keys that the one below picked, and no others."""
    picker, reader = build(IndexPickerAttention, topk=2), build(IndexReaderAttention, layer=1)
    shared, x = Shared(), tokens()
    picker(x, shared)
    weights = reader.weights(x, shared)
    assert weights is not None and ((weights > 0) == shared.read(IndexChoice).keys).all()
    with pytest.raises(UsageError, match="a layer reads IndexChoice, which no earlier layer published"):
        reader(x)


def test_an_indexer_learns_from_all_that_read_it() -> None:
    picker, reader, shared = build(IndexPickerAttention, topk=2), build(IndexReaderAttention, layer=1), Shared()
    assert isinstance(picker, IndexPickerAttention)
    picker(tokens(), shared)
    reader(tokens(), shared).square().sum().backward()
    assert all(w.weight.grad.abs().max() > 0 for w in (picker.to_index_q, picker.to_index_k, picker.to_index_w))


@pytest.mark.parametrize("options", [{}, {"mask": partial(Window, 3)}], ids=["all", "window"])
@torch.no_grad()
def test_last_layers_cache_nothing(options: dict[str, object]) -> None:
    """Decoding gives what the whole gives, and a layer that reads keeps nothing."""
    layers = [build(TailSharingAttention, layer=i, n_layers=2, makers=1, **options) for i in (0, 1)]
    x, whole, states = tokens(), Shared(), [layer.init_state(1, T) for layer in layers]
    wanted_rows, rows = [layer(x, whole) for layer in layers][1], []
    for token in x.split(1, dim=1):
        shared = Shared()
        for i, layer in enumerate(layers):
            row, states[i] = layer.step(token, states[i], shared)
        rows.append(row)
    same(torch.cat(rows, dim=1), wanted_rows)
    assert layers[1].init_state(1, T).cache.k.numel() == 0


@torch.no_grad()
def test_one_latent_for_all_heads() -> None:
    grouped, latent = build(GroupedLatentAttention, groups=1), build(LatentAttention)
    latent.load_state_dict(
        {**grouped.state_dict(), "norm.weight": grouped.state_dict()["gain"].flatten()}, strict=False
    )
    same(latent(tokens()), grouped(tokens()))


@torch.no_grad()
def test_mfa_is_mqa() -> None:
    """With a matrix of queries that is a product of two."""
    mfa, mqa = build(MultiMatrixFactorizationAttention), build(MultiHeadAttention, n_kv_heads=1)
    assert isinstance(mfa, MultiMatrixFactorizationAttention)
    product = {"qkv.to_q.weight": mfa.to_q.weight @ mfa.to_q_latent.weight, "to_out.weight": mfa.to_out.weight}
    mqa.load_state_dict({**product, "qkv.to_k.weight": mfa.to_k.weight, "qkv.to_v.weight": mfa.to_v.weight})
    same(mqa(tokens()), mfa(tokens()))
