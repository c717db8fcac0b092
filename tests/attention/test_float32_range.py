"""Float32 where a formula strains it: small numbers, long sums, one token that is far larger than the others."""

import pytest
import torch
from torch import Tensor

from attnlab.attention.base import Heads
from attnlab.attention.decay import ScalarDecay
from attnlab.attention.forgetting import Forget
from attnlab.attention.log_linear import LogLinearAttention
from attnlab.attention.normalizer import Softpick
from attnlab.attention.scan import chunked
from attnlab.attention.score import Pairs

DIGITS = 1e-6  # of float32: a dozen roundings of 6e-8


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(y: Tensor, right: Tensor) -> float:
    """The largest error of a row, in parts of that row's largest number."""
    return float(((y.double() - right).abs().amax(dim=-1) / right.abs().amax(dim=-1)).max())


@pytest.mark.parametrize(("a", "weights"), [(1e-6, (0.2, 0.4, 0.0)), (3e-8, (0.0267857, 0.0535714, 0.0))])
def test_softpick_near_zero(a: float, weights: tuple[float, ...]) -> None:
    """e^a - 1 keeps its digits where a is small."""
    scores = torch.tensor([[[[a, 2 * a, -a]]]])
    y = Softpick(n_heads=1)(scores, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(y, torch.tensor(weights).expand(1, 1, 1, 3), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("spike", [0.0, -1e5])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_long_sums_of_decays_in_chunks(spike: float, per_channel: bool, writes: bool) -> None:
    """What is forgotten since a token is no difference of two long sums, even after one that forgets all."""
    q, k, v = (draw(1, 2, 256, 8, seed=seed) for seed in range(3))
    fade = -draw(1, 2, 256, 8, seed=3).abs() if per_channel else -draw(1, 2, 256, seed=3).abs()
    fade[:, :, 70] += spike
    beta = torch.full((1, 2, 256), 0.5) if writes else None
    k = torch.nn.functional.normalize(k, dim=-1)
    given = [q, k, v, fade, beta, torch.zeros(1, 2, 8, 8)]
    right = chunked(*(None if x is None else x.double() for x in given))[0]  # type: ignore[arg-type]
    off = (chunked(*given)[0].double() - right).norm(dim=-1) / right.norm(dim=-1)  # type: ignore[arg-type]
    assert float(off.mean()) < DIGITS


def test_long_sums_of_forget_gates() -> None:
    """4096 tokens that forget much: the last queries' scores are right to the last digit."""
    link = Forget(d_model=4, n_heads=1, head_dim=4)
    t, s = 8, 4096
    carried, scores = -3 * draw(1, 1, s, 1).abs(), torch.zeros(1, 1, t, s)
    pos = torch.arange(s)
    pairs = Pairs(draw(1, 1, t, 4), draw(1, 1, s, 4), pos[-t:], pos, torch.ones(t, s, dtype=torch.bool), 1.0)
    total = carried[0, 0, :, 0].double().cumsum(0)
    right = total[-t:, None] - total
    y = link.apply_scores(scores, pairs, carried)[0, 0].double()
    torch.testing.assert_close(y, right, rtol=DIGITS, atol=0.0)


def test_long_sums_in_log_linear() -> None:
    t = 1024
    layer = LogLinearAttention(8, n_heads=1, decay=ScalarDecay, context=t)
    q, k, v = (draw(1, 1, t, 8, seed=seed) for seed in range(3))
    extra = {"log_decay": -draw(1, 1, t, seed=3).abs(), "level": draw(1, 1, t, layer.n_levels, seed=4).abs()}
    heads = Heads(q.abs(), k.abs(), v.abs(), extra)  # nothing cancels, so that an error is one of the decays
    wide = Heads(*(p.double() for p in (q.abs(), k.abs(), v.abs())), extra={n: p.double() for n, p in extra.items()})
    assert apart(layer.mix(heads), layer.double().mix(wide)) < DIGITS
