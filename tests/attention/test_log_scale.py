"""Features by their logarithms: the same weights as exponentials in float64, where float32 holds none of them."""

import pytest
import torch
from tests.attention.plain_layers import draw
from torch import Tensor

from attnlab.attention.log_scale import RISE, exceeds, rescaled

B, H, T, F, W = 1, 2, 6, 3, 4


def outputs(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, memory: Tensor) -> tuple[Tensor, Tensor]:
    """S = e^decay S + k v^T, o = q S, token by token: each output up to a factor, and the last memory."""
    rows = []
    for t in range(T):
        if log_decay is not None:
            memory = memory * log_decay[:, :, t].exp()[..., None]
        memory = memory + k[:, :, t, :, None] * v[:, :, t, None]
        rows.append(torch.einsum("bhf,bhfw->bhw", q[:, :, t], memory))
    out = torch.stack(rows, dim=2)
    return out / out.sum(dim=-1, keepdim=True), memory


@pytest.mark.parametrize("decay", ["none", "scalar", "channel"])
@pytest.mark.parametrize("spread", [1.0, 40.0, 150.0])
@pytest.mark.parametrize("empty", [True, False])
def test_same_weights(decay: str, spread: float, empty: bool) -> None:
    """One scale for all tokens or one for each: after the division by their sum, weights are those of the exponents."""
    log_q, log_k, v = spread * draw(B, H, T, F), spread * draw(B, H, T, F, seed=1), draw(B, H, T, W, seed=2).abs()
    shape = {"scalar": (B, H, T), "channel": (B, H, T, F)}
    log_decay = None if decay == "none" else -draw(*shape[decay], seed=3).abs()
    scale = torch.full((B, H, F), -torch.inf).double() if empty else spread * draw(B, H, F, seed=4)
    memory = torch.zeros(B, H, F, W).double() if empty else draw(B, H, F, W, seed=5).abs()
    wide = None if log_decay is None else log_decay.view(B, H, T, -1).expand(B, H, T, F)
    before = torch.zeros_like(memory) if empty else memory * scale.exp()[..., None]
    expected, last = outputs(log_q.exp(), log_k.exp(), v, wide, before)
    small = rescaled(*(None if x is None else x.float() for x in (log_q, log_k, log_decay, memory, scale)))
    assert all(bool(x.isfinite().all()) for x in small if x is not None)
    y, after = outputs(small.q, small.k, v.float(), small.log_decay, small.memory)
    torch.testing.assert_close(y.double(), expected, rtol=2e-4, atol=1e-6)
    rows = after.double().log() + small.scale.double()[..., None]
    torch.testing.assert_close(rows, last.log(), rtol=1e-5, atol=1e-3)


def test_no_later_scale() -> None:
    """A token that comes later, however large, changes no number of an earlier query."""
    log_q, log_k = draw(B, H, T, F).float(), draw(B, H, T, F, seed=1).float()
    memory, scale, larger = torch.zeros(B, H, F, W), torch.full((B, H, F), -torch.inf), log_k.clone()
    larger[:, :, -1] += 10 * RISE
    log_decay = torch.zeros(B, H, T)
    one, other = rescaled(log_q, log_k, log_decay, memory, scale), rescaled(log_q, larger, log_decay, memory, scale)
    assert torch.equal(one.q[:, :, :-1], other.q[:, :, :-1]) and torch.equal(one.k[:, :, :-1], other.k[:, :, :-1])


def test_exceeds() -> None:
    """Whether any number does; a copy without numbers never, since what it would decide is what it costs."""
    x = torch.tensor([1.0, 3.0])
    assert exceeds(x, 2.0) and not exceeds(x, 3.0) and not exceeds(x.to("meta"), 2.0)
