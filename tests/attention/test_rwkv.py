"""RWKV-7: its recurrence as a loop over tokens in the paper's own layout, and what it reduces to."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.attention.heads import join_heads
from attnlab.attention.rwkv import RWKV7Attention, erase_and_write
from attnlab.attention.scan import token_loop
from attnlab.errors import UsageError

B, H, D, V = 2, 3, 4, 5
same = partial(torch.testing.assert_close, rtol=0.0, atol=1e-10)  # float64


def parts(t: int) -> list[Tensor]:
    """q, k, v, log decay, removal key, rate, state."""
    draw = partial(torch.randn, dtype=torch.float64, generator=torch.Generator().manual_seed(t))
    q, k, decay, removal, rate = (draw(B, H, t, D) for _ in range(5))
    made = [q, k, draw(B, H, t, V), -0.6 * decay.sigmoid(), F.normalize(removal, dim=-1), rate.sigmoid()]
    return [x.requires_grad_() for x in (*made, draw(B, H, D, V))]


def loop(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, removal: Tensor, rate: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """wkv_t = wkv_{t-1} (diag(w_t) - n_t^T (a_t * n_t)) + v_t^T k_t, with row vectors: arXiv 2503.14456, section 4."""
    wkv, out = state.mT, []
    for i in range(q.size(2)):
        n, a = removal[:, :, i, None], rate[:, :, i, None]  # (b, h, 1, d)
        transition = torch.diag_embed(log_decay[:, :, i].exp()) - n.mT @ (a * n)
        wkv = wkv @ transition + v[:, :, i, :, None] @ k[:, :, i, None, :]
        out.append((wkv @ q[:, :, i, :, None]).squeeze(-1))
    return torch.stack(out, dim=2), wkv.mT


@pytest.mark.parametrize(("t", "chunk"), [(1, 64), (7, 64), (8, 4), (13, 5), (30, 16)])
def test_chunks_exact(t: int, chunk: int) -> None:
    """Chunks are the loop over tokens in values and gradients."""
    given, found = parts(t), []
    for run in (loop, partial(erase_and_write, chunk=chunk)):
        o, state = run(*given)
        grads = torch.autograd.grad((o.sin().sum() + state.cos().sum()), given)
        found.append((o, state, *grads))
    for one, other in zip(*found, strict=True):
        same(one, other)


def test_reduces_to_delta_rule() -> None:
    """Rate beta for all channels, the write beta k, no decay: S + beta k (v - S^T k)^T."""
    q, _, v, _, key, rate, state = parts(9)
    beta = rate[..., 0]
    delta = token_loop(q, key, v, None, beta, state)
    each = beta[..., None].expand_as(key)
    for one, other in zip(
        erase_and_write(q, each * key, v, torch.zeros_like(q), key, each, state, 4), delta, strict=True
    ):
        same(one, other)


def test_reduces_to_gated_linear() -> None:
    """It is gated linear attention where nothing is removed."""
    q, k, v, decay, key, rate, state = parts(9)
    want = token_loop(q, k, v, decay, None, state)
    for one, other in zip(erase_and_write(q, k, v, decay, key, 0 * rate, state, 4), want, strict=True):
        same(one, other)


def test_is_its_docstring() -> None:
    """The layer is the formulas of its docstring."""
    torch.manual_seed(0)
    layer, c, t = RWKV7Attention(12, n_heads=3, rank=5).double(), 12, 6
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(2, t, c, dtype=torch.float64)
    before = torch.cat([torch.zeros(2, 1, c, dtype=torch.float64), x[:, :-1]], dim=1)

    def of(name: str) -> Tensor:
        share = layer.shares[name]
        return (1 - share) * x + share * before

    def heads(y: Tensor) -> Tensor:
        return y.unflatten(-1, (3, 4)).transpose(1, 2)

    r, k, v = (heads(of(n) @ to.weight.mT) for n, to in (("r", layer.to_r), ("k", layer.to_k), ("v", layer.to_v)))
    d = torch.tanh(of("w") @ layer.to_decay.to_rank.weight.mT) @ layer.to_decay.to_all.weight.mT + layer.to_decay.bias
    a = of("a") @ layer.to_rate.to_rank.weight.mT @ layer.to_rate.to_all.weight.mT + layer.to_rate.bias
    a = heads(a.sigmoid())
    gate = torch.sigmoid(of("g") @ layer.to_gate.to_rank.weight.mT) @ layer.to_gate.to_all.weight.mT
    kappa = k * layer.xi
    kappa = kappa / kappa.square().sum(dim=-1, keepdim=True).sqrt()
    written = k * ((1 - layer.alpha) + layer.alpha * a)
    empty = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    o = loop(r, written, v, -heads(d.sigmoid()) * torch.tensor(-0.5).double().exp(), kappa, a, empty)[0]
    o = (o - o.mean(-1, keepdim=True)) / (o.var(-1, keepdim=True, correction=0) + 4e-5).sqrt()
    o = o * layer.gain + layer.offset + (r * written * layer.rho).sum(dim=-1, keepdim=True) * v
    same(layer(x), (join_heads(o) * gate) @ layer.to_out.weight.mT)


def test_a_rank_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"rank \(0\) must be an integer of at least 1"):
        RWKV7Attention(12, n_heads=3, rank=0)
