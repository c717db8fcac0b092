"""Test-time training against its definition: an inner model that autograd trains token by token."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.attention.position import NoPE, Position
from attnlab.attention.rotary import RoPE
from attnlab.attention.test_time_training import EPS, TTTAttention
from attnlab.errors import UsageError

WIDTH, HEADS, T = 24, 4, 23
same = partial(torch.testing.assert_close, rtol=0.0, atol=1e-10)  # float64


def build(minibatch: int = 5, rate: float = 1.0, position: type[Position] = RoPE) -> TTTAttention:
    torch.manual_seed(0)
    layer = TTTAttention(WIDTH, n_heads=HEADS, minibatch=minibatch, rate=rate, position=position).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return layer


def tokens(n: int = T) -> Tensor:
    return torch.randn(2, n, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_definition(layer: TTTAttention, x: Tensor) -> Tensor:
    """One sequence, one head, one token at a time; the inner gradient comes from autograd."""
    q, k, v = (
        part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for part in (layer.qkv.to_q(x), layer.qkv.to_k(x), layer.qkv.to_v(x))
    )
    q, k, d = layer.position.rotate(q), layer.position.rotate(k), q.size(-1)
    rate = layer.rate / (1 + (-layer.to_rate(x)).exp()) / d
    out = torch.zeros_like(q)
    for row in range(x.size(0)):
        for h in range(HEADS):

            def f(u: Tensor, w: Tensor, b: Tensor, h: int = h) -> Tensor:
                return u + F.layer_norm(u @ w + b, (d,), layer.gain[h, 0], layer.offset[h, 0], EPS)

            w = w0 = layer.weight[h, :d]
            b = b0 = layer.weight[h, d]
            outs = []
            for t in range(x.size(1)):
                if t % layer.minibatch == 0:
                    w0, b0 = w, b
                loss = (f(k[row, h, t], w0, b0) - v[row, h, t]).square().sum() / 2
                dw, db = torch.autograd.grad(loss, (w0, b0), create_graph=True)
                w, b = w - rate[row, t, h] * dw, b - rate[row, t, h] * db
                outs.append(f(q[row, h, t], w, b))
            out[row, h] = torch.stack(outs)
    return layer.to_out(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("minibatch", [1, 5, 64])
def test_is_its_definition(minibatch: int) -> None:
    """Values and gradients are those of the definition."""
    layer, x = build(minibatch), tokens(11)
    fast, slow = layer(x), by_definition(layer, x)
    same(fast, slow)
    aim = torch.cos(torch.arange(fast.numel(), dtype=fast.dtype)).view_as(fast)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    for name, a, b in zip(
        names,
        torch.autograd.grad((fast * aim).sum(), parameters),
        torch.autograd.grad((slow * aim).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-10, msg=name)


@torch.no_grad()
def test_cut_inside_minibatch() -> None:
    """Cutting inside a minibatch changes nothing."""
    layer, x = build(), tokens()
    state, out = layer.init_state(2, T), []
    for piece in x.split([3, 1, 1, 8, 2, 7, 1], dim=1):
        y, state = layer.step(piece, state)
        out.append(y)
    same(torch.cat(out, dim=1), layer(x))


@torch.no_grad()
def test_tiny_inner_rate() -> None:
    """An inner rate of almost nothing leaves each token alone."""
    layer, x = build(rate=1e-14, position=NoPE), tokens()
    alone = torch.cat([layer(one) for one in x.split(1, dim=1)], dim=1)
    same(layer(x), alone)
    assert (build(position=NoPE)(x) - alone).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("options", "message"), [({"minibatch": 0}, r"minibatch \(0\)"), ({"rate": 0.0}, r"rate \(0.0\)")]
)
def test_refuses_what_cannot_train(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TTTAttention(WIDTH, n_heads=HEADS, **options)  # type: ignore[arg-type]
