"""Positions inside attention against their published formulas, in plain numbers, and the edges where they meet."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.position import Position
from attnlab.attention.position_bias import FIRE, ALiBi, Kerple, T5Bias
from attnlab.attention.rotary import RoPE, YaRN
from attnlab.attention.xpos import XPos
from attnlab.errors import UsageError

HEADS, T = 3, 11
CLOSE = {"rtol": 0, "atol": 1e-10}
BIASES: list[type[Position]] = [T5Bias, Kerple, FIRE]


def made(kind: type[Position], *, head_dim: int = 6, context: int = 20, **options: Any) -> Any:
    """A position in fp64, its parameters moved off their initial values."""
    torch.manual_seed(0)
    position = kind(head_dim=head_dim, n_heads=HEADS, context=context, **options).double()
    with torch.no_grad():
        for parameter in position.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return position


def heads(n: int, width: int) -> Tensor:
    return torch.randn(2, HEADS, n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def turned(x: Tensor, place: int, speeds: list[float]) -> Tensor:
    """The first coordinates of one vector turned in pairs, the others as they are."""
    out = x.tolist()
    for i, speed in enumerate(speeds):
        a, b, angle = float(x[2 * i]), float(x[2 * i + 1]), place * speed
        out[2 * i] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return torch.tensor(out, dtype=torch.float64)


def bias_of(position: Position, length: int) -> Tensor:
    pos = torch.arange(length)
    bias = position.bias(pos, pos)
    assert bias is not None
    return bias


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


# Rotations


@pytest.mark.parametrize(
    ("head_dim", "fraction", "width"),
    [(6, 1.0, 6), (6, 0.5, 2), (6, 0.7, 4), (8, 0.5, 4), (7, 0.6, 4), (9, 0.99, 8), (10, 0.01, 2), (100, 0.58, 58)],
)
def test_partial_rope(head_dim: int, fraction: float, width: int) -> None:
    """Partial RoPE rotates the first coordinates and leaves the others."""
    x, position = heads(4, head_dim), made(RoPE, head_dim=head_dim, fraction=fraction)
    y = position.rotate(x, 3)
    assert torch.equal(y[..., width:], x[..., width:])
    speeds = [10000.0 ** (-2 * i / width) for i in range(width // 2)]
    for n in range(4):
        torch.testing.assert_close(y[1, 2, n], turned(x[1, 2, n], 3 + n, speeds), **CLOSE)


@pytest.mark.parametrize("factor", [2.0, 8.0])
@pytest.mark.parametrize(("fast", "slow"), [(32.0, 1.0), (9.0, 2.0)])
def test_yarn(factor: float, fast: float, slow: float) -> None:
    """YaRN keeps fast pairs slows down slow one's and multiplies by its temperature."""
    width, original, base = 16, 300, 10000.0
    options = {"factor": factor, "original_context": original, "beta_fast": fast, "beta_slow": slow}
    position, x = made(YaRN, head_dim=width, **options), heads(4, width)
    speeds, kept = [], []
    for i in range(width // 2):
        wavelength = 2 * math.pi * base ** (2 * i / width)
        turns = original / wavelength
        gamma = 0.0 if turns < slow else 1.0 if turns > fast else (turns - slow) / (fast - slow)
        speeds.append((1 - gamma) * base ** (-2 * i / width) / factor + gamma * base ** (-2 * i / width))
        kept.append(gamma)
    assert kept[0] == 1 and kept[-1] == 0 and any(0 < gamma < 1 for gamma in kept)
    y = position.rotate(x, 3)
    for n in range(4):
        expected = turned(x[1, 2, n], 3 + n, speeds) * (0.1 * math.log(factor) + 1)
        torch.testing.assert_close(y[1, 2, n], expected, **CLOSE)


def test_xpos() -> None:
    """XPos rotates as RoPE and decays each pair with the distance."""
    position, width, gamma, scale = made(XPos, head_dim=8, gamma=0.3, scale=20.0), 8, 0.3, 20.0
    q, k = heads(1, width), heads(2, width)[:, :, 1:]
    speeds = [10000.0 ** (-2 * i / width) for i in range(width // 2)]
    for n, m in ((9, 9), (9, 4), (30, 2)):
        found = (position.rotate(q, n) * position.rotate_keys(k, m)).sum(dim=-1)[1, 2, 0]
        pairs = (turned(q[1, 2, 0], n, speeds) * turned(k[1, 2, 0], m, speeds)).unflatten(0, (-1, 2)).sum(dim=-1)
        zeta = [(i / (width / 2) + gamma) / (1 + gamma) for i in range(width // 2)]
        want = sum(float(pair) * z ** ((n - m) / scale) for pair, z in zip(pairs, zeta, strict=True))
        assert float(found) == pytest.approx(want, rel=0, abs=1e-10)


def test_xpos_without_decay() -> None:
    """XPos that decays over endless distances is RoPE."""
    x, xpos, rope = heads(5, 8), made(XPos, head_dim=8, scale=1e18), made(RoPE, head_dim=8)
    torch.testing.assert_close(xpos.rotate(x, 2), rope.rotate(x, 2), **CLOSE)
    torch.testing.assert_close(xpos.rotate_keys(x, 2), rope.rotate_keys(x, 2), **CLOSE)


@pytest.mark.parametrize(
    ("kind", "options"), [(RoPE, {"fraction": 0.5}), (YaRN, {"factor": 4.0}), (XPos, {"scale": 9.0})]
)
def test_scores_see_distances(kind: type[RoPE], options: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores see distances and the compiler the same product."""
    position, q, k = made(kind, **options), heads(1, 6), heads(2, 6)[:, :, 1:]

    def score(q_place: int, k_place: int) -> Tensor:
        return (position.rotate(q, q_place) * position.rotate_keys(k, k_place)).sum(dim=-1)

    torch.testing.assert_close(score(17, 12), score(5, 0), **CLOSE)
    assert not torch.allclose(score(6, 0), score(5, 0))
    usual = position.rotate(q, 9)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(position.rotate(q, 9), usual, **CLOSE)


# Biases


@pytest.mark.parametrize(("n_buckets", "max_distance"), [(32, 128), (8, 20), (2, 3)])
def test_t5_buckets(n_buckets: int, max_distance: int) -> None:
    """T5 looks up the published bucket of each distance."""
    position = made(T5Bias, n_buckets=n_buckets, max_distance=max_distance)
    bias, exact = bias_of(position, 139), n_buckets // 2
    reached = set()
    for n in range(139):
        bucket = n
        if n >= exact:
            part = math.log(n / exact) / math.log(max_distance / exact)
            bucket = min(exact + int(part * (n_buckets - exact)), n_buckets - 1)
        reached.add(bucket)
        for i in range(n, 139, 17):
            assert torch.equal(bias[:, i, i - n], position.table.weight[bucket])
    assert reached == set(range(n_buckets))


def test_kerple_is_the_published_logarithm() -> None:
    position = made(Kerple)
    bias = bias_of(position, T)
    for h in range(HEADS):
        r1, r2 = softplus(position.strength[h].item()), softplus(position.rate[h].item())
        for i in range(T):
            for j in range(i + 1):
                assert bias[h, i, j].item() == pytest.approx(-r1 * math.log(1 + r2 * (i - j)), rel=0, abs=1e-10)


def test_kerple_starts_with_both_numbers_at_one() -> None:
    bias = bias_of(Kerple(head_dim=6, n_heads=HEADS, context=20), T)
    torch.testing.assert_close(bias[:, -1, 0], torch.full((HEADS,), -math.log(T)))


def test_fire() -> None:
    """FIRE is the published function of the relative distance."""
    position = made(FIRE, hidden=5)
    bias = bias_of(position, T)
    c, start = softplus(position.rate.item()), softplus(position.threshold.item()) * 20 / 4
    assert 1 < start < T - 2  # both sides of the maximum are met
    into, shift = position.to_hidden.weight[:, 0].tolist(), position.to_hidden.bias.tolist()
    for i in range(T):
        for j in range(i + 1):
            part = math.log(1 + c * (i - j)) / math.log(1 + c * max(start, i))
            hidden = [w * part + b for w, b in zip(into, shift, strict=True)]
            hidden = [x / (1 + math.exp(-x)) for x in hidden]
            for h in range(HEADS):
                expected = sum(w * x for w, x in zip(position.to_bias.weight[h].tolist(), hidden, strict=True))
                assert bias[h, i, j].item() == pytest.approx(expected, rel=0, abs=1e-10)


def test_fire_start_values() -> None:
    """FIRE starts with the paper's rate and a quarter of the context."""
    position = FIRE(head_dim=6, n_heads=HEADS, context=20)
    torch.testing.assert_close(torch.nn.functional.softplus(position.rate), torch.tensor(0.1))
    torch.testing.assert_close(torch.nn.functional.softplus(position.threshold), torch.tensor(1.0))
    bias = bias_of(position, T)
    torch.testing.assert_close(bias[:, 2, 0], bias[:, 5, 3])  # up to position 5 only the distance counts
    assert not torch.allclose(bias[:, 6, 4], bias[:, 10, 8])


@pytest.mark.parametrize("kind", BIASES)
def test_bias_in_cuts(kind: type[Position]) -> None:
    """A bias is the same for any cut of the positions and finite where a mask hides."""
    position = made(kind)
    q_pos, k_pos = torch.tensor([9, 4]), torch.tensor([0, 8, 3, 9])
    bias = position.bias(q_pos, k_pos)
    assert bias is not None
    torch.testing.assert_close(bias, bias_of(position, T)[:, q_pos][:, :, k_pos], **CLOSE)
    bias = position.bias(torch.tensor([0, 3]), torch.tensor([-1, 7]))
    assert bias is not None and bias.isfinite().all()
    for grad in torch.autograd.grad(bias.square().sum(), list(position.parameters()), allow_unused=True):
        assert grad is not None and grad.isfinite().all()


@pytest.mark.parametrize("kind", [ALiBi, *BIASES])
def test_fused_equals_explicit(kind: type[Position]) -> None:
    """The fused and the explicit attention agree in values and gradients."""
    torch.manual_seed(0)
    layer = MultiHeadAttention(12, n_heads=2, position=kind, context=20).double()
    heads = layer.project(torch.randn(2, T, 12, dtype=torch.float64))
    pos, found = torch.arange(T), []
    for attend in (layer.attend, layer.attend_explicitly):
        o = attend(heads, pos, pos)
        wanted = [*layer.qkv.parameters(), *layer.position.parameters()]
        found.append((o, *torch.autograd.grad(o.square().sum(), wanted, retain_graph=True)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (RoPE, {"fraction": 0.0}, r"fraction \(0\.0\) must be a number above 0, at most 1"),
        (RoPE, {"fraction": 1.5}, r"fraction \(1\.5\) must be"),
        (RoPE, {"fraction": 0.5, "head_dim": 1}, r"position=rope rotates pairs, so the width of a head \(1\) must"),
        (YaRN, {"head_dim": 7}, r"position=yarn rotates pairs, so the width of a head \(7\) must be even"),
        (YaRN, {"factor": 0.5}, r"factor \(0\.5\) must be a number of at least 1"),
        (YaRN, {"original_context": 0}, r"original_context \(0\) must be an integer of at least 1"),
        (YaRN, {"beta_fast": 1.0}, r"beta_fast \(1\.0\) must be greater than beta_slow \(1\.0\)"),
        (XPos, {"gamma": 0.0}, r"gamma \(0\.0\) must be a number above 0"),
        (XPos, {"scale": -1.0}, r"scale \(-1\.0\) must be a number above 0"),
        (T5Bias, {"n_buckets": 0}, r"n_buckets \(0\) must be an integer of at least 2"),
        (T5Bias, {"n_buckets": 7}, r"n_buckets \(7\) must be even"),
        (T5Bias, {"max_distance": 16}, r"max_distance \(16\) must be greater than half of n_buckets \(16\)"),
        (FIRE, {"hidden": 0}, r"hidden \(0\) must be an integer of at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind: type[Position], options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(kind, **options)
