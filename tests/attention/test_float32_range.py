"""Float32 where a formula strains it: small numbers, long sums, one token that is far larger than the others."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from attnlab.attention.block_topk import best
from attnlab.attention.decay import ChannelDecay, Decay, ScalarDecay, StepDecay
from attnlab.attention.feature_map import EluPlusOne, FeatureMap, RandomFeatures, Taylor
from attnlab.attention.forgetting import Forget
from attnlab.attention.heads import Heads
from attnlab.attention.log_linear import LogLinearAttention, Rating
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.normalizer import Normalizer, Sigmoid, Softmax, Softpick
from attnlab.attention.output_norm import SumNorm
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.scan import chunked
from attnlab.attention.score_context import ScoreContext

DIGITS = 1e-6  # of float32: a dozen roundings of 6e-8


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(y: Tensor, right: Tensor) -> float:
    """The largest error of a row, in parts of that row's largest number."""
    y, right = y.detach().double(), right.detach()
    return float(((y - right).abs().amax(dim=-1) / right.abs().amax(dim=-1)).max())


@pytest.mark.parametrize(("a", "weights"), [(1e-6, (0.2, 0.4, 0.0)), (3e-8, (0.0267857, 0.0535714, 0.0))])
def test_softpick_near_zero(a: float, weights: tuple[float, ...]) -> None:
    """e^a - 1 keeps its digits where a is small."""
    scores = torch.tensor([[[[a, 2 * a, -a]]]])
    y = Softpick(n_heads=1)(scores, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(y, torch.tensor(weights).expand(1, 1, 1, 3), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("normalizer", [Softmax, Sigmoid])
@pytest.mark.parametrize("best", [5.0, 15.0, 40.0])
def test_gradient_near_one(normalizer: type[Normalizer], best: float) -> None:
    """A weight of nearly 1 hardly changes with its score, and by how much keeps its digits."""
    slopes, visible = [], torch.ones(1, 4, dtype=torch.bool)
    for dtype in (torch.float32, torch.float64):
        scores = torch.tensor([best, 0.3, -0.5, 0.1]).to(dtype).expand(1, 1, 1, 4).clone().requires_grad_()
        weights = normalizer(n_heads=1)(scores, visible)
        slopes.append(torch.autograd.grad((weights * draw(4).to(dtype)).sum(), scores)[0])
    torch.testing.assert_close(slopes[0].double(), slopes[1], rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("spike", [0.0, -1e5])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_long_sums_of_decays_in_chunks(spike: float, per_channel: bool, writes: bool) -> None:
    """What is forgotten since a token is no difference of two long sums, even after one that forgets all."""
    q, k, v = (draw(1, 2, 256, 8, seed=seed) for seed in range(3))
    decay = -draw(1, 2, 256, 8, seed=3).abs() if per_channel else -draw(1, 2, 256, seed=3).abs()
    decay[:, :, 70] += spike
    beta = torch.full((1, 2, 256), 0.5) if writes else None
    k = torch.nn.functional.normalize(k, dim=-1)
    given = [q, k, v, decay, beta, torch.zeros(1, 2, 8, 8)]
    right = chunked(*(None if x is None else x.double() for x in given))[0]  # type: ignore[arg-type]
    off = (chunked(*given)[0].double() - right).norm(dim=-1) / right.norm(dim=-1)  # type: ignore[arg-type]
    assert float(off.mean()) < DIGITS


def test_long_sums_of_forget_gates() -> None:
    """4096 tokens that forget much: the last queries' scores are right to the last digit."""
    modifier = Forget(d_model=4, n_heads=1, head_dim=4)
    t, s = 8, 4096
    carried, scores = -3 * draw(1, 1, s, 1).abs(), torch.zeros(1, 1, t, s)
    pos = torch.arange(s)
    pairs = ScoreContext(draw(1, 1, t, 4), draw(1, 1, s, 4), pos[-t:], pos, torch.ones(t, s, dtype=torch.bool), 1.0)
    total = carried[0, 0, :, 0].double().cumsum(0)
    right = total[-t:, None] - total
    y = modifier.apply_scores(scores, pairs, carried)[0, 0].double()
    torch.testing.assert_close(y, right, rtol=DIGITS, atol=0.0)


def test_long_sums_in_log_linear() -> None:
    t = 1024
    layer = LogLinearAttention(8, n_heads=1, decay=ScalarDecay, context=t)
    q, k, v = (draw(1, 1, t, 8, seed=seed) for seed in range(3))
    decay, level = -draw(1, 1, t, seed=3).abs(), draw(1, 1, t, layer.n_levels, seed=4).abs()
    parts = (q.abs(), k.abs(), v.abs())  # nothing cancels, so that an error is one of the decays
    heads = Heads(*parts, log_decay=decay, own=Rating(level))
    wide = Heads(*(p.double() for p in parts), log_decay=decay.double(), own=Rating(level.double()))
    assert apart(layer.mix(heads), layer.double().mix(wide)) < DIGITS


def positive(features: Callable[..., FeatureMap], width: int = 1) -> RecurrentAttention:
    """One head whose matrices are all the identity, so that of one token it gives that token."""
    layer = RecurrentAttention(width, n_heads=1, feature_map=features, output_norm=SumNorm, chunk=8)
    for parameter in layer.parameters():
        torch.nn.init.eye_(parameter)
    return layer


@pytest.mark.parametrize("features", [RandomFeatures, EluPlusOne, Taylor])
@pytest.mark.parametrize("x", [13.0, 14.0, 1e4, 1e-20, 0.0, -17.3, -18.0, -104.0, -745.0, -1e4])
def test_one_token_is_itself(features: Callable[..., FeatureMap], x: float) -> None:
    """exp(-|x|^2) and elu(x) + 1 leave float32 at 14 and -17; their ratio is one all the same, and so is its slope."""
    layer, token = positive(features), torch.full((1, 1, 1), x, requires_grad=True)
    y = layer(token)
    assert y.item() == pytest.approx(x, rel=1e-5)
    assert torch.autograd.grad(y, token)[0].item() == pytest.approx(1.0, rel=1e-4)
    assert layer.step(token, layer.init_state(1, 1))[0].item() == pytest.approx(x, rel=1e-5)


@pytest.mark.parametrize("features", [RandomFeatures, EluPlusOne])
@pytest.mark.parametrize("size", [1.0, 4.5, 12.0, 30.0, 1e3])
def test_positive_features_of_large_tokens(features: Callable[..., FeatureMap], size: float) -> None:
    """32 tokens of a head of 32, whose weights are right by their logarithms in float64, however they are cut."""
    layer = positive(features, 32)
    for seed in range(5):
        x = (size * draw(1, 32, 32, seed=seed) - (size if features is EluPlusOne else 0)).requires_grad_()
        wide, logs = x.detach().double(), layer.feature_map
        pairs = logs.query_logs(wide[None])[0, 0][:, None] + logs.logs(wide[None])[0, 0]
        right = (
            pairs.logsumexp(dim=-1).masked_fill(torch.ones(32, 32).triu(1) > 0, -torch.inf).softmax(dim=-1) @ wide[0]
        )
        y, state, decoded = layer(x), layer.init_state(1, 32), []
        for piece in x.detach().split([5, 1, 1, 25], dim=1):
            o, state = layer.step(piece, state)
            decoded.append(o)
        assert max(apart(y[0], right), apart(torch.cat(decoded, dim=1)[0], right)) < 3e-4
        assert bool(torch.autograd.grad(y.sum(), x)[0].isfinite().all())


def test_features_after_a_change_of_scale() -> None:
    """A memory that is kept in logarithms takes features that are not, and the other way round."""
    x = draw(1, 24, 4) - 60.0 * (torch.arange(24) // 6 % 2)[:, None]
    layer, right = positive(EluPlusOne, 4), positive(EluPlusOne, 4).double()(x.double())
    state, decoded = layer.init_state(1, 24), []
    for piece in x.split(6, dim=1):
        o, state = layer.step(piece, state)
        decoded.append(o)
    assert apart(torch.cat(decoded, dim=1)[0], right[0]) < 10 * DIGITS


def test_decays_beside_features_by_their_logarithms() -> None:
    """Random features under a decay per head or per channel: float32 against float64, where the scale rises."""
    decays: list[Callable[..., Decay]] = [ScalarDecay, partial(ChannelDecay, rank=2), StepDecay]
    for decay in decays:
        features = EluPlusOne if decay is not StepDecay else RandomFeatures
        torch.manual_seed(0)
        layer = RecurrentAttention(8, n_heads=1, feature_map=features, output_norm=SumNorm, decay=decay, chunk=8)
        x = 40 * draw(1, 40, 8) - 40
        assert apart(layer(x)[0].detach(), layer.double()(x.double())[0]) < 3e-4


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_gradients_at_large_scores(size: float) -> None:
    """Scores of 1e8: where torch's fused kernel loses the gradients, the rule is written out."""
    torch.manual_seed(0)
    layer, gradients = MultiHeadAttention(8, n_heads=2), []
    for dtype in (torch.float32, torch.float64):
        x = (size * draw(1, 40, 8)).to(dtype).requires_grad_()
        gradients.append(torch.autograd.grad((layer.to(dtype)(x) * draw(1, 40, 8, seed=1)).sum(), x)[0][0])
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 10 * DIGITS


def test_usual_scores_stay_with_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MultiHeadAttention(8, n_heads=2)
    monkeypatch.setattr(layer, "attend_explicitly", None)
    layer(5 * draw(1, 40, 8)).sum().backward()
    with torch.no_grad():
        layer(1e4 * draw(1, 40, 8))


def test_ratings_that_are_nearly_alike() -> None:
    """1024 ratings of 1 +- .01: of the best 64 nearly all are chosen, and ties do not lean to the start of the row."""
    rating = 1 + 0.01 * draw(1, 1, 50, 1024)
    chosen = best(rating, torch.ones(50, 1024, dtype=torch.bool), 64)
    right = torch.zeros_like(chosen).scatter(-1, rating.double().topk(64).indices, True)
    assert float((chosen & right).sum() / right.sum()) > 0.995
    places = torch.arange(1024.0).expand_as(rating)
    assert abs(float(places[chosen].mean() - places[right].mean())) < 5
