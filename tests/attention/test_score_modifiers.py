"""Links of the score chain: each rule as plain loops over positions, and what it refuses."""

from collections.abc import Callable
from functools import partial
from math import ceil, exp, floor, log

import pytest
import torch
from torch import Tensor

from attnlab.attention.contextual_position import CoPE
from attnlab.attention.forgetting import Forget
from attnlab.attention.mask import Causal, Full, Mask, Strided, Window
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.multi_token import MultiToken
from attnlab.attention.normalizer import Softmax
from attnlab.attention.path import Path
from attnlab.attention.scalable_softmax import SSMax
from attnlab.attention.score import Score
from attnlab.attention.score_context import ScoreContext
from attnlab.attention.selective import Selective
from attnlab.attention.talking_heads import TalkingHeads
from attnlab.errors import UsageError
from attnlab.laws import subject_of
from attnlab.laws.subject import perturbed
from attnlab.model import generator_for

C, H, D, T, SCALE = 12, 3, 5, 11, 0.7
same = partial(torch.testing.assert_close, rtol=0.0, atol=1e-10)  # float64
Modifier = Callable[..., Score]
NARROW = partial(MultiToken, queries=3, keys=3)  # fits into a short window
MODIFIERS: list[Modifier] = [SSMax, Forget, TalkingHeads, Selective, partial(CoPE, p_max=2), Path, NARROW]
GAPLESS = [kind for kind in Score.__subclasses__() if kind.needs_all]


def drawn(*shape: int, seed: str) -> Tensor:
    return torch.randn(*shape, generator=generator_for(0, seed), dtype=torch.float64)


def built(modifier: Modifier, **options: float) -> Score:
    made = modifier(d_model=C, n_heads=H, head_dim=D, **options).double()
    perturbed(made)
    return made


def parts(mask: Mask, seed: str = "a") -> tuple[Tensor, ScoreContext]:
    """A batch of one: tokens, and what a modifier sees of them."""
    x, q, k = drawn(1, T, C, seed=seed + "x"), drawn(1, H, T, D, seed=seed + "q"), drawn(1, H, T, D, seed=seed + "k")
    pos = torch.arange(T)
    return x, ScoreContext(q, k, pos, pos, mask.visible(pos, pos), SCALE)


def applied(modifier: Score, x: Tensor, pairs: ScoreContext) -> Tensor:
    """What the modifier makes of the scaled scores; 0 where nothing is visible."""
    carried = modifier.make_extras(pairs.q, pairs.k, x) if modifier.cached_extras else None
    scores = modifier.apply_scores(pairs.q @ pairs.k.mT * SCALE, pairs, carried)
    return scores.masked_fill(~pairs.visible, 0.0)


@torch.no_grad()
def by_pairs(rule: Callable[[int, int, int], Tensor | float], pairs: ScoreContext) -> Tensor:
    """A map from a rule for head h, query i and visible key j."""
    out = torch.zeros(1, H, T, T, dtype=torch.float64)
    for h, i, j in torch.cartesian_prod(torch.arange(H), torch.arange(T), torch.arange(T)).tolist():
        if pairs.visible[i, j]:
            out[0, h, i, j] = rule(h, i, j)
    return out


def sigmoid(s: Tensor | float) -> float:
    return 1 / (1 + exp(-(s.item() if isinstance(s, Tensor) else s)))


MASKS = pytest.mark.parametrize("mask", [Causal(), Window(4), Strided(3)], ids=["causal", "window", "strided"])


@MASKS
def test_ssmax(mask: Mask) -> None:
    """SSMax multiplies by the logarithm of what is visible."""
    x, pairs = parts(mask)
    modifier = built(SSMax)

    def rule(h: int, i: int, j: int) -> Tensor:
        n = sum(bool(v) for v in pairs.visible[i])
        return modifier.gain[h] * log(n) * (pairs.q[0, h, i] @ pairs.k[0, h, j]) * SCALE

    same(applied(modifier, x, pairs), by_pairs(rule, pairs))


@MASKS
def test_forget_gates(mask: Mask) -> None:
    """Forget adds the logarithms of the gates since."""
    x, pairs = parts(mask)
    modifier = built(Forget)

    def rule(h: int, i: int, j: int) -> Tensor:
        gates = [sigmoid(modifier.to_forget.weight[h] @ x[0, m] + modifier.bias[h]) for m in range(j + 1, i + 1)]
        return pairs.q[0, h, i] @ pairs.k[0, h, j] * SCALE + sum(log(g) for g in gates)

    same(applied(modifier, x, pairs), by_pairs(rule, pairs))


@MASKS
def test_selective(mask: Mask) -> None:
    """Selective subtracts the votes of the tokens in between."""
    x, pairs = parts(mask)

    def rule(h: int, i: int, j: int) -> float:
        votes = [max(float(pairs.q[0, 0, m] @ pairs.k[0, 0, j]) * SCALE, 0.0) for m in range(j + 1, i)]
        return float(pairs.q[0, h, i] @ pairs.k[0, h, j]) * SCALE - (sum(votes) if j else 0.0)

    same(applied(built(Selective), x, pairs), by_pairs(rule, pairs))


@MASKS
@pytest.mark.parametrize("p_max", [2, 16])
def test_cope(mask: Mask, p_max: int) -> None:
    """CoPE adds the interpolated row of the counted position."""
    x, pairs = parts(mask)
    modifier = built(CoPE, p_max=p_max)

    def rule(h: int, i: int, j: int) -> Tensor:
        q = pairs.q[0, h, i]
        place = min(sum(sigmoid(q @ pairs.k[0, h, m] * SCALE) for m in range(j, i + 1)), p_max)
        low, high = modifier.table.weight[floor(place)], modifier.table.weight[ceil(place)]
        e = low + (place - floor(place)) * (high - low)
        return (q @ pairs.k[0, h, j] + q @ e) * SCALE

    same(applied(modifier, x, pairs), by_pairs(rule, pairs))


def path_by_products(modifier: Path, x: Tensor, pairs: ScoreContext) -> Tensor:
    w = modifier.to_w(modifier.to_low(x)).unflatten(-1, (H, D))
    w = w / w.square().sum(-1, keepdim=True).sqrt()
    beta = 2 / (1 + (-modifier.to_beta(x)).exp())
    rows = []
    for h in range(H):
        for i in range(T):
            for j in range(T):
                moved = pairs.k[0, h, j]
                for m in range(j + 1, i + 1):
                    moved = (torch.eye(D) - beta[0, m, h] * torch.outer(w[0, m, h], w[0, m, h])) @ moved
                rows.append(pairs.q[0, h, i] @ moved * SCALE)
    return torch.stack(rows).view(1, H, T, T).masked_fill(~pairs.visible, 0.0)


@MASKS
def test_path(mask: Mask) -> None:
    """PaTH multiplies out the reflections in between."""
    x, pairs = parts(mask)
    x.requires_grad_(), pairs.q.requires_grad_(), pairs.k.requires_grad_()
    modifier = built(Path, rank=4)
    assert isinstance(modifier, Path)
    wanted, seed = [x, pairs.q, pairs.k, *modifier.parameters()], drawn(1, H, T, T, seed="grad")
    found, plain = applied(modifier, x, pairs), path_by_products(modifier, x, pairs)
    same(found, plain)
    both = [torch.autograd.grad((y * seed).sum(), wanted) for y in (found, plain)]
    for a, b in zip(*both, strict=True):
        same(a, b)


@MASKS
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (3, 4), (6, 11)])
def test_multi_token_sums_the_scores_around(mask: Mask, queries: int, keys: int) -> None:
    x, pairs = parts(mask)
    modifier = built(MultiToken, queries=queries, keys=keys)
    first = -(keys // 2)  # j' runs from -floor(keys / 2) to ceil(keys / 2) - 1

    def rule(h: int, i: int, j: int) -> Tensor | float:
        total: Tensor | float = 0.0
        for a in range(queries):
            for b in range(first, first + keys):
                if i - a >= 0 and 0 <= j - b <= i - a and pairs.visible[i, j - b]:
                    near = pairs.q[0, h, i - a] @ pairs.k[0, h, j - b] * SCALE
                    total = total + modifier.kernel[h, a, keys - 1 - (b - first)] * near
        return total

    same(applied(modifier, x, pairs), by_pairs(rule, pairs))


def test_talking_heads_mix_scores_and_weights() -> None:
    x, pairs = parts(Causal())
    modifier, plain = built(TalkingHeads), pairs.q @ pairs.k.mT * SCALE
    mixed = [sum(modifier.before[h, m] * plain[:, m] for m in range(H)) for h in range(H)]
    same(applied(modifier, x, pairs), torch.stack(mixed, dim=1).masked_fill(~pairs.visible, 0.0))
    mixed = [sum(modifier.after[h, m] * plain[:, m] for m in range(H)) for h in range(H)]
    same(modifier.apply_weights(plain, pairs, None), torch.stack(mixed, dim=1))


@pytest.mark.parametrize("modifier", [TalkingHeads, MultiToken])
def test_identity_mixture(modifier: Modifier) -> None:
    """An identity mixture is plain attention at the start."""
    x, pairs = parts(Causal())
    plain = (pairs.q @ pairs.k.mT * SCALE).masked_fill(~pairs.visible, 0.0)
    fresh = modifier(d_model=C, n_heads=H, head_dim=D).double()
    same(applied(fresh, x, pairs), plain)
    same(fresh.apply_weights(plain, pairs, None), plain)


def layer(modifier: Modifier, mask: Callable[[], Mask], n_kv_heads: int) -> MultiHeadAttention:
    made = MultiHeadAttention(12, n_heads=4, n_kv_heads=n_kv_heads, score={"it": modifier}, mask=mask).double().eval()
    perturbed(made)
    return made


@torch.no_grad()
@pytest.mark.parametrize("kv", [4, 2, 1])
@pytest.mark.parametrize("mask", [Causal, partial(Window, 4), partial(Strided, 3)], ids=["causal", "window", "strided"])
@pytest.mark.parametrize("modifier", MODIFIERS)
def test_decoding(modifier: Modifier, mask: Callable[[], Mask], kv: int) -> None:
    """Decoding gives what the whole sequence gives."""
    attention, x = layer(modifier, mask, kv), drawn(2, 13, 12, seed="decode")
    state, out = attention.init_state(2, 13), []
    for piece in x.split([1, 4, 1, 1, 1, 5], dim=1):
        y, state = attention.step(piece, state)
        out.append(y)
    same(torch.cat(out, dim=1), attention(x))


@pytest.mark.parametrize("kind", GAPLESS)
def test_refused_masks(kind: type[Score]) -> None:
    """A mask with gaps or later keys is refused."""
    modifier, gaps = kind(d_model=C, n_heads=H, head_dim=D), Causal()
    gaps.contiguous = False
    with pytest.raises(UsageError, match=rf"attention/score \({kind.__name__}\) needs .* \(Causal\) drops some"):
        modifier.check(gaps, Softmax(n_heads=H))
    with pytest.raises(UsageError, match=rf"attention/score \({kind.__name__}\) needs .* \(Full\) shows later ones"):
        modifier.check(Full(), Softmax(n_heads=H))


@pytest.mark.parametrize(
    ("modifier", "least"), [(partial(CoPE, p_max=3), 6), (partial(MultiToken, queries=4, keys=5), 6)]
)
def test_window_too_short(modifier: Modifier, least: int) -> None:
    """A window that leaves parameters without use is refused."""
    made = modifier(d_model=C, n_heads=H, head_dim=D)
    made.check(Window(least), Softmax(n_heads=H))
    with pytest.raises(UsageError, match=rf"{least - 1} keys"):
        made.check(Window(least - 1), Softmax(n_heads=H))


@pytest.mark.parametrize(
    ("modifier", "option"),
    [(SSMax, "start"), (CoPE, "p_max"), (Path, "rank"), (MultiToken, "queries"), (MultiToken, "keys")],
)
def test_a_size_of_zero_is_refused(modifier: Modifier, option: str) -> None:
    with pytest.raises(UsageError, match=rf"{option} \(0\) must be"):
        modifier(d_model=C, n_heads=H, head_dim=D, **{option: 0})


@pytest.mark.parametrize("name", ["ssmax", "fox", "talking_heads", "selective", "cope", "path", "multi_token"])
def test_a_preset_is_its_link_on_multi_head(name: str) -> None:
    made = subject_of(name).layer(0)
    assert isinstance(made, MultiHeadAttention)
    modifier = "forget" if name == "fox" else name
    twin = subject_of("multi_head", [f"attention/score=[scaled,{modifier}]"]).layer(0)
    assert isinstance(twin, MultiHeadAttention)
    assert [type(modifier) for modifier in made.score_mods] == [type(modifier) for modifier in twin.score_mods]
