"""Attention with projections of its own: the rule as a plain loop, and the two forms of latent attention."""

import math
from functools import partial
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from attnlab.attention.base import Attention
from attnlab.attention.differential import DifferentialAttention
from attnlab.attention.gate import Elementwise
from attnlab.attention.latent import LatentAttention
from attnlab.attention.mask import Window
from attnlab.attention.norm import EPS
from attnlab.attention.position_bias import ALiBi
from attnlab.attention.rotary import RoPE
from attnlab.attention.score import QKNorm, SoftCap
from attnlab.errors import UsageError

WIDTH, HEADS, T, CONTEXT = 24, 4, 13, 17
A = TypeVar("A", bound=Attention)
same = partial(torch.testing.assert_close, rtol=0.0, atol=1e-10)  # float64


def ready(layer: A) -> A:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p) * 0.4)
    return layer.double().eval()


def tokens() -> Tensor:
    return torch.randn(2, T, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rms(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean() + EPS).sqrt() * gain


def turned(x: Tensor, place: int) -> Tensor:
    """Pairs of neighbours, turned by place * 10000^(-2i/d)."""
    out = torch.empty_like(x)
    for i in range(x.numel() // 2):
        angle = torch.tensor(place * 10000.0 ** (-2 * i / x.numel()), dtype=torch.float64)
        a, b = x[2 * i], x[2 * i + 1]
        out[2 * i], out[2 * i + 1] = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
    return out


def by_hand(layer: LatentAttention, x: Tensor) -> Tensor:
    """One sequence, token by token and head by head."""
    d, n = layer.head_dim, layer.plain_dim
    latents = [rms(layer.to_latent.weight @ token, layer.norm.weight) for token in x]
    rows = []
    for i, token in enumerate(x):
        if layer.to_q_latent is not None:
            token = rms(layer.to_q_latent.weight @ token, layer.q_norm.weight)
        q, outs = layer.to_q.weight @ token, []
        for h in range(HEADS):
            plain, rotary = q[h * d : h * d + n], q[h * d + n : (h + 1) * d]
            w_k, w_v = layer.to_k.weight[h * n : (h + 1) * n], layer.to_v.weight[h * d : (h + 1) * d]
            scores = []
            for j in range(i + 1):
                score = plain @ (w_k @ latents[j])
                if layer.to_k_rotary is not None:
                    score = score + turned(rotary, i) @ turned(layer.to_k_rotary.weight @ x[j], j)
                scores.append(score / d**0.5)
            weights = torch.stack(scores).softmax(0)
            outs.append(sum(a * (w_v @ latents[j]) for j, a in enumerate(weights)))
        rows.append(layer.to_out.weight @ torch.cat(outs))
    return torch.stack(rows)


@pytest.mark.parametrize("q_rank", [None, 5])
@pytest.mark.parametrize("rope_dim", [0, 2, 4])
def test_latent_attention_is_its_formula(q_rank: int | None, rope_dim: int) -> None:
    position = {"position": RoPE} if rope_dim else {}
    layer = LatentAttention(WIDTH, n_heads=HEADS, q_rank=q_rank, rope_dim=rope_dim, kv_rank=7, **position)
    layer, x = ready(layer), tokens()
    same(layer(x), torch.stack([by_hand(layer, row) for row in x]))


@pytest.mark.parametrize("position", [RoPE, ALiBi])
@pytest.mark.parametrize("score", [{}, {"cap": partial(SoftCap, cap=2.0)}])
def test_absorbed_form(position: type, score: dict) -> None:
    """Absorbed form has the values and gradients of the expanded."""
    layer = LatentAttention(
        WIDTH,
        n_heads=HEADS,
        kv_rank=7,
        q_rank=5,
        position=position,
        score=score,
        mask=partial(Window, window=5),
        gate=Elementwise,
        context=CONTEXT,
    )
    layer, x = ready(layer), tokens()
    expanded, absorbed = layer(x), layer.step(x, layer.init_state(2, T))[0]
    same(absorbed, expanded)
    wanted = torch.autograd.grad(expanded.square().sum(), list(layer.parameters()))
    got = torch.autograd.grad(absorbed.square().sum(), list(layer.parameters()))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_only_latents_and_rotary_keys_are_cached() -> None:
    layer = ready(LatentAttention(WIDTH, n_heads=HEADS, kv_rank=7, rope_dim=2, position=RoPE))
    cache = layer.init_state(3, T).cache
    assert cache.k.numel() + cache.v.numel() == 3 * T * (7 + 2)


def test_absorbing_is_refused() -> None:
    """What cannot be absorbed is refused by name."""
    with pytest.raises(UsageError, match="QKNorm"):
        LatentAttention(WIDTH, n_heads=HEADS, score={"norm": QKNorm})
    with pytest.raises(UsageError, match="RoPE"):
        LatentAttention(WIDTH, n_heads=HEADS, rope_dim=0, position=RoPE)
    with pytest.raises(UsageError, match="rope_dim \\(6\\)"):
        LatentAttention(WIDTH, n_heads=HEADS, rope_dim=6)


def test_differential_is_a_difference() -> None:
    """Differential is the difference of two maps."""
    layer, x = ready(DifferentialAttention(WIDTH, n_heads=HEADS, layer=2)), tokens()
    start = 0.8 - 0.6 * math.exp(-0.6)
    a, b = (layer.lambda_q[i] @ layer.lambda_k[i] for i in range(2))
    share, future = a.exp() - b.exp() + start, torch.ones(T, T, dtype=torch.bool).triu(1)
    q, k, v = (x @ w.weight.T for w in (layer.to_q, layer.to_k, layer.to_v))
    outs = []
    for h in range(HEADS // 2):
        maps = []
        for half in (slice(12 * h, 12 * h + 6), slice(12 * h + 6, 12 * h + 12)):
            scores = q[..., half] @ k[..., half].mT / 6**0.5
            maps.append(scores.masked_fill(future, -torch.inf).softmax(-1))
        o = (maps[0] - share * maps[1]) @ v[..., 12 * h : 12 * h + 12]
        o = o / (o.square().mean(-1, keepdim=True) + EPS).sqrt()
        outs.append(o * layer.norm.weight * (1 - start))
    same(layer(x), torch.cat(outs, -1) @ layer.to_out.weight.T)
