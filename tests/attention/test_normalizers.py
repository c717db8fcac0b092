"""Normalisers and gates: each rule as a plain loop or its optimality condition, and what they reduce to."""

from collections.abc import Callable
from functools import partial
from math import exp

import pytest
import torch
from torch import Tensor

from attnlab.attention.entmax import Entmax, Sparsemax
from attnlab.attention.gate import Exclusive
from attnlab.attention.normalizer import Cog, Normalizer, Softpick
from attnlab.attention.stick_breaking import StickBreaking
from attnlab.errors import UsageError

T = 11
same = partial(torch.testing.assert_close, rtol=0.0, atol=1e-10)  # float64


def sigmoid(s: float) -> float:
    return 1 / (1 + exp(-s))


def threshold(row: list[float], power: float) -> list[float]:
    """relu(s - tau)^power with sum 1, tau by bisection."""
    low, high = max(row) - 1, max(row)
    for _ in range(80):
        tau = (low + high) / 2
        low, high = (tau, high) if sum(max(s - tau, 0) ** power for s in row) > 1 else (low, tau)
    return [max(s - low, 0) ** power for s in row]


def sparsemax(row: list[float]) -> list[float]:
    return threshold(row, 1)


def entmax(row: list[float], alpha: float = 1.5) -> list[float]:
    return threshold([s * (alpha - 1) for s in row], 1 / (alpha - 1))


def cog(row: list[float]) -> list[float]:
    return [(1 if s > 0 else -1) * exp(abs(s)) / sum(exp(abs(r)) for r in row) for s in row]


def softpick(row: list[float]) -> list[float]:
    total = sum(abs(exp(s) - 1) for s in row) + 1e-6
    return [max(exp(s) - 1, 0) / total for s in row]


def stick_breaking(row: list[float]) -> list[float]:
    left, out = 1.0, []
    for s in reversed(row):
        out.append(left * sigmoid(s))
        left *= 1 - sigmoid(s)
    return out[::-1]


Rule = Callable[..., Normalizer]
RULES: list[tuple[Rule, Callable[[list[float]], list[float]]]] = [
    (Sparsemax, sparsemax),
    (Entmax, entmax),
    (Softpick, softpick),
    (StickBreaking, stick_breaking),
    (Cog, cog),
    *((partial(Entmax, alpha=alpha), partial(entmax, alpha=alpha)) for alpha in (1.05, 1.25, 1.8, 2.0)),
]


def masks() -> list[Tensor]:
    i, j = torch.arange(T)[:, None], torch.arange(T)
    return [j <= i, (j <= i) & (i - j < 4), (j <= i) & ((i - j) % 3 == 0)]


def scores() -> Tensor:
    return torch.randn(2, 3, T, T, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2


@pytest.mark.parametrize(("kind", "rule"), RULES)
@pytest.mark.parametrize("visible", masks())
def test_rule_on_visible_scores(kind: Rule, rule: Callable[[list[float]], list[float]], visible: Tensor) -> None:
    """Each row is the rule applied to the visible scores."""
    s, want = scores(), torch.zeros(2, 3, T, T, dtype=torch.float64)
    for b in range(2):
        for h in range(3):
            for i in range(T):
                want[b, h, i, visible[i]] = torch.tensor(rule(s[b, h, i, visible[i]].tolist()), dtype=want.dtype)
    same(kind(n_heads=3)(s, visible), want)


@pytest.mark.parametrize("kind", [kind for kind, _ in RULES])
def test_gradients_are_the_slopes(kind: Rule) -> None:
    s = scores()[:1, :1, -2:].requires_grad_()
    assert torch.autograd.gradcheck(lambda s: kind(n_heads=1)(s, masks()[2][-2:]), s)


@pytest.mark.parametrize("kind", [kind for kind, _ in RULES])
def test_huge_scores(kind: Rule) -> None:
    """Huge scores give finite weights and gradients."""
    s = (scores().float() * 1000).requires_grad_()
    weights = kind(n_heads=3)(s, masks()[0])
    (weights**2).sum().backward()
    assert weights.isfinite().all()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_entmax_gradient() -> None:
    """dw_i / ds_j = u_i (delta_ij - u_j / sum u), u = w^(2 - alpha): arXiv 1905.05702, proposition 2."""
    for alpha in (1.1, 1.5, 1.9):
        s, visible = scores()[:1, :1, -1:], masks()[0][-1:]
        jacobian = torch.autograd.functional.jacobian(
            lambda s, alpha=alpha, visible=visible: Entmax(n_heads=1, alpha=alpha)(s, visible), s
        )[0, 0, 0, :, 0, 0, 0]
        w = Entmax(n_heads=1, alpha=alpha)(s, visible)[0, 0, 0]
        u = torch.where(w > 0, w ** (2 - alpha), 0)
        same(jacobian, torch.diag(u) - u[:, None] * u / u.sum())


def test_entmax_ends() -> None:
    """Entmax is sparsemax at 2 and nears the softmax at the other end."""
    s, visible = scores(), masks()[0]
    same(Entmax(n_heads=3, alpha=2)(s, visible), Sparsemax(n_heads=3)(s, visible))
    far, near = (
        (Entmax(n_heads=3, alpha=alpha)(s, visible) - s.masked_fill(~visible, -torch.inf).softmax(-1)).abs().max()
        for alpha in (1.5, 1.05)
    )
    assert near < far / 5


def test_entmax_long_rows() -> None:
    """Entmax finds the threshold of long and crowded rows."""
    rows = torch.stack(
        [torch.linspace(-1, 0, 3000) ** 9, torch.randn(3000), torch.zeros(3000), 1e4 * torch.randn(3000)]
    )
    for alpha in (1.05, 1.3, 1.7, 2.0):
        w = Entmax(n_heads=1, alpha=alpha)(rows.double()[None, None], torch.ones(4, 3000, dtype=torch.bool))
        same(w.sum(dim=-1), torch.ones(1, 1, 4, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [1.0, 2.1])
def test_an_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match=rf"alpha \({alpha}\) must be a number of at least 1\.05, at most 2"):
        Entmax(n_heads=1, alpha=alpha)


def test_cog_turns_its_weights_around_with_the_scores() -> None:
    s, visible = scores(), masks()[0]
    same(Cog(n_heads=3)(-s, visible), -Cog(n_heads=3)(s, visible))
    same(Cog(n_heads=3)(s, visible).abs().sum(dim=-1), torch.ones(2, 3, T, dtype=torch.float64))


def test_exclusive() -> None:
    """Exclusive takes out the own direction and alpha 0 takes out nothing."""
    o, v = scores(), scores().flip(0)
    gate = Exclusive(d_model=8, n_heads=3, value_dim=T).double()
    same((gate(o, None, v) * v).sum(dim=-1), torch.zeros(2, 3, T, dtype=torch.float64))
    with torch.no_grad():
        gate.alpha.copy_(torch.tensor([0.0, 0.5, 1.0]))
    y = gate(o, None, v)
    same(y[:, 0], o[:, 0])
    for t in range(T):
        a, u = o[0, 1, t], v[0, 1, t]
        same(y[0, 1, t], a - 0.5 * (a @ u) / (u @ u) * u)


def test_exclusive_in_bfloat16() -> None:
    """Exclusive in bfloat16 rounds what is left once."""
    gate = Exclusive(d_model=8, n_heads=3, value_dim=T).to(torch.bfloat16)
    v = torch.randn(2, 3, 5, T, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    o = v + (0.05 * torch.randn(v.shape, generator=torch.Generator().manual_seed(1))).to(torch.bfloat16)
    left = gate(o.float(), None, v.float())  # twenty times smaller than what is taken out
    assert torch.equal(gate(o, None, v), left.to(torch.bfloat16))
