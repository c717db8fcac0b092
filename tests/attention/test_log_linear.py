"""Log-linear attention against its definition and its stretches."""

from functools import partial

import pytest
import torch
from torch import Tensor

from attnlab.attention import log_linear
from attnlab.attention.decay import ScalarDecay
from attnlab.attention.log_linear import LogLinearAttention, levels
from attnlab.attention.rotary import RoPE
from attnlab.errors import UsageError

WIDTH, HEADS, T = 24, 4, 32
same = partial(torch.testing.assert_close, rtol=0.0, atol=1e-10)  # float64


def build(context: int = T) -> LogLinearAttention:
    torch.manual_seed(0)
    layer = LogLinearAttention(WIDTH, n_heads=HEADS, decay=ScalarDecay, position=RoPE, context=context).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return layer


def tokens(n: int = T) -> Tensor:
    return torch.randn(2, n, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def stretches(i: int) -> dict[int, list[int]]:
    """Positions before i by level: as long as any are left, the lowest set bit says how many go together."""
    found, end = {0: [i]}, i
    while end:
        size = end & -end
        found[size.bit_length()] = list(range(end - size, end))
        end -= size
    return found


def test_levels_are_a_fenwick_tree() -> None:
    """Levels are the stretches of a Fenwick tree."""
    pos = torch.arange(T)
    table = levels(pos[:, None], pos, 6)
    for i in range(T):
        for level, positions in stretches(i).items():
            assert table[i, positions].tolist() == [level] * len(positions)


def test_is_its_definition() -> None:
    """Values and gradients are those of the definition."""
    layer, x = build(), tokens(19)
    heads = layer.project(x)
    slow = torch.zeros_like(heads.v)
    for i in range(19):
        for level, positions in stretches(i).items():
            for j in positions:
                decay = heads.log_decay[:, :, j + 1 : i + 1].sum(dim=-1).exp()
                match = (heads.q[:, :, i] * heads.k[:, :, j]).sum(dim=-1)
                weight = heads.own.level[:, :, i, level] * decay * match
                slow[:, :, i] = slow[:, :, i] + weight[..., None] * heads.v[:, :, j]
    fast, slow = layer(x), layer.merge(slow, heads)
    same(fast, slow)
    parameters = list(layer.parameters())
    aim = torch.cos(torch.arange(fast.numel(), dtype=fast.dtype)).view_as(fast)
    for a, b in zip(
        torch.autograd.grad((fast * aim).sum(), parameters, allow_unused=True),
        torch.autograd.grad((slow * aim).sum(), parameters, allow_unused=True),
        strict=True,
    ):
        assert a is not None
        same(a, b)


@pytest.mark.parametrize(("t", "chunk"), [(5, 4), (17, 4), (32, 4), (31, 2), (32, 16), (9, 1)])
def test_chunks(t: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks values and gradients are those of the whole map."""
    layer, x = build(), tokens(t)
    whole = layer(x)
    monkeypatch.setattr(log_linear, "CHUNK", chunk)
    parts = layer(x)
    same(parts, whole)
    aim = torch.cos(torch.arange(whole.numel(), dtype=whole.dtype)).view_as(whole)
    parameters = list(layer.parameters())
    for a, b in zip(
        torch.autograd.grad((parts * aim).sum(), parameters),
        torch.autograd.grad((whole * aim).sum(), parameters),
        strict=True,
    ):
        same(a, b)


def test_strong_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing overflows in float32 where what was written decays by e^-2000 in a chunk."""
    monkeypatch.setattr(log_linear, "CHUNK", 4)
    layer = build().float()
    heads = layer.project(tokens(19).float())
    heads = heads._replace(log_decay=torch.full_like(heads.log_decay, -500.0))
    alone = layer.among(heads, 0)
    o = layer.mix(heads)
    assert o.isfinite().all()
    torch.testing.assert_close(o, alone)


@torch.no_grad()
@pytest.mark.parametrize("context", [31, 32, 33])
def test_decoding_through_the_levels_is_the_map(context: int) -> None:
    layer, x = build(context), tokens(context)
    state, out = layer.init_state(2, context), []
    for piece in x.split([7, 1, 8, context - 16], dim=1):
        y, state = layer.step(piece, state)
        out.append(y)
    same(torch.cat(out, dim=1), layer(x))


def test_refuses_positions_it_has_no_level_for() -> None:
    with pytest.raises(UsageError, match=f"levels for {T} positions .* not {T + 1}"):
        build()(tokens(T + 1))
