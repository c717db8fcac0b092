"""Where two variants must be the same function, they are: values, and gradients where two routes compute one rule."""

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.attention.base import Attention, HeadedAttention
from attnlab.attention.decay import FixedDecay, NoDecay, ScalarDecay
from attnlab.attention.feature_map import EluPlusOne, IdentityMap, UnitLength
from attnlab.attention.mask import Window
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.normalizer import Sink, Softmax1
from attnlab.attention.output_norm import NoOutputNorm, SumNorm
from attnlab.attention.position_bias import ALiBi, alibi_slopes
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.rotary import RoPE
from attnlab.attention.scan import chunked, token_loop
from attnlab.attention.self_attention import SelfAttention
from attnlab.attention.simple import SimpleAttention
from attnlab.attention.write import AddWrite, DeltaWrite
from attnlab.laws.subject import BATCH, D_MODEL, SAME, SHORT, gap, perturbed, subject_of, tokens

ROPE, T = partial(RoPE), 13


def made(cls: type[Attention], **options: Any) -> Any:
    """A layer in fp64 off its initial values; layers with the same parameters have the same numbers."""
    layer = (
        cls(D_MODEL, **({} if cls in (SimpleAttention, SelfAttention) else {"n_heads": 4}) | options).double().eval()
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    perturbed(layer)
    return layer


def same(one: Attention, other: Attention, length: int = T, tolerance: float = SAME) -> None:
    """Outputs and maps of two layers agree."""
    x = tokens(BATCH, length)
    assert gap(one(x), other(x)) < tolerance
    a, b = one.weights(x), other.weights(x)
    assert a is not None and b is not None and gap(a, b) < tolerance


def test_multi_query_is_one_group() -> None:
    """Multi-query is grouped-query with one group."""
    mqa, gqa = (subject_of(*which).layer(0).double() for which in (("mqa",), ("gqa", ["attention.n_kv_heads=1"])))
    assert mqa.qkv.to_k.weight.shape == (6, D_MODEL)  # type: ignore[union-attr]
    same(mqa.eval(), gqa.eval())


def test_a_window_of_one_is_each_token_alone() -> None:
    layer = made(MultiHeadAttention, mask=partial(Window, 1))
    a = layer.weights(tokens(1, T))
    assert torch.equal(a, torch.eye(T, dtype=a.dtype).expand_as(a))


def test_sink_takes_all() -> None:
    """A sink that everything goes to leaves nothing."""
    sink = made(MultiHeadAttention, normalizer=Sink)
    with torch.no_grad():
        sink.normalizer.logit.fill_(1e3)
    assert float(sink.weights(tokens(BATCH, T)).max()) == 0.0


def test_softmax1_is_its_formula() -> None:
    layer = made(MultiHeadAttention, normalizer=Softmax1)
    x = tokens(BATCH, T)
    heads = layer.project(x)
    scores = ((heads.q @ heads.k.mT) / 6**0.5).exp().tril()
    assert gap(layer.weights(x), scores / (1 + scores.sum(dim=-1, keepdim=True))) < SAME


def test_linear_attention_is_its_formula() -> None:
    """o_i = sum_j phi(q_i) . phi(k_j) v_j / sum_j phi(q_i) . phi(k_j), phi = elu + 1."""
    layer = made(RecurrentAttention, feature_map=EluPlusOne, output_norm=SumNorm, chunk=5)
    x = tokens(BATCH, T)
    q, k, v = (
        (x @ to.weight.mT).unflatten(-1, (4, 6)).transpose(1, 2)
        for to in (layer.qkv.to_q, layer.qkv.to_k, layer.qkv.to_v)
    )
    weights = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT).tril()
    weights = weights / weights.sum(dim=-1, keepdim=True)
    assert gap(layer.weights(x), weights) < SAME
    assert gap(layer(x), layer.to_out((weights @ v).transpose(1, 2).flatten(2))) < SAME


def test_retention_is_its_formula() -> None:
    """A_ij = q_i . k_j gamma^(i - j) / sqrt(d), gamma_h = 1 - 2^(-5-h)."""
    layer = made(RecurrentAttention, decay=FixedDecay, chunk=5)
    x = tokens(BATCH, T)
    heads = layer.project(x)
    place = torch.arange(T)
    gamma = torch.tensor([1 - 2.0 ** (-5 - h) for h in range(4)], dtype=torch.float64)
    decay = (gamma[:, None, None] ** (place[:, None] - place[None, :]).clamp(min=0)).tril()
    assert gap(layer.weights(x), (heads.q @ heads.k.mT) * decay) < SAME


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    """The delta rule in plain loops over batch, heads and tokens, as in arXiv 2406.06484, equation 1."""
    out = torch.empty_like(v)
    for b, h in product(range(q.size(0)), range(q.size(1))):
        memory = torch.zeros(v.size(-1), k.size(-1), dtype=q.dtype)  # S is (v, d) in the paper
        for t in range(q.size(2)):
            key = k[b, h, t]
            memory = memory - beta[b, h, t] * torch.outer(memory @ key - v[b, h, t], key)
            out[b, h, t] = memory @ q[b, h, t]
    return out


def test_gated_delta_without_decay() -> None:
    """Gated delta that forgets nothing is the delta rule."""
    gated = made(RecurrentAttention, feature_map=UnitLength, decay=ScalarDecay, write=DeltaWrite, chunk=5)
    with torch.no_grad():
        gated.decay.log_rate.fill_(-torch.inf)  # log a = -exp(-inf) softplus(...) = 0
    x = tokens(BATCH, T)
    heads = gated.project(x)
    assert gap(heads.log_decay.exp(), torch.ones(BATCH, 4, T, dtype=x.dtype)) == 0
    loop = delta_rule(heads.q, heads.k, heads.v, heads.beta)
    assert gap(gated.mix(heads), loop) < SAME
    plain = made(RecurrentAttention, feature_map=UnitLength, write=DeltaWrite)
    same(gated, plain)


def test_delta_with_orthogonal_keys() -> None:
    """Where nothing is stored under a key yet, correcting it and adding to it are the same."""
    k = torch.eye(6, dtype=torch.float64).expand(1, 1, 6, 6)
    q, v = torch.randn(2, 1, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    empty, ones = torch.zeros(1, 1, 6, 6, dtype=torch.float64), torch.ones(1, 1, 6, dtype=torch.float64)
    for run in (token_loop, chunked):
        assert gap(run(q, k, v, None, ones, empty)[0], run(q, k, v, None, None, empty)[0]) < SAME


def scan_inputs(t: int, decays: bool, writes: bool) -> list[Tensor | None]:
    """Queries, keys, values, log decays, write strengths and a memory that is not empty; d = 5, v = 3."""
    draw = torch.Generator().manual_seed(t)
    q, k, v, g, beta, memory = (
        torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in ((2, 3, t, 5), (2, 3, t, 5), (2, 3, t, 3), (2, 3, t), (2, 3, t), (2, 3, 5, 3))
    )
    made = [
        q,
        F.normalize(k, dim=-1),
        v,
        F.logsigmoid(g) if decays else None,
        beta.sigmoid() if writes else None,
        memory,
    ]
    return [None if x is None else x.requires_grad_() for x in made]


@pytest.mark.parametrize("t", [1, 2, 7, 13, 16])
@pytest.mark.parametrize("chunk", [1, 2, 5, 8, 64])
@pytest.mark.parametrize(("decays", "writes"), list(product([False, True], repeat=2)))
def test_chunked_scan_is_token_loop(t: int, chunk: int, decays: bool, writes: bool) -> None:
    """The chunked scan is the token loop in values and gradients."""
    results = []
    for run in (token_loop, partial(chunked, chunk=chunk)):
        given = scan_inputs(t, decays, writes)
        o, memory = run(*given)
        draw = torch.Generator().manual_seed(1)
        loss = sum((y * torch.randn(y.shape, generator=draw, dtype=y.dtype)).sum() for y in (o, memory))
        grads = torch.autograd.grad(loss, [x for x in given if x is not None])
        results.append([o, memory, *grads])
    for one, other in zip(*results, strict=True):
        assert gap(other, one) < SAME


def test_strong_decay_in_chunks() -> None:
    """Sums of log decays reach -1300 in a chunk of 64, whose inverse exponential would be infinite."""
    q, k, v, _, beta, memory = scan_inputs(70, True, True)
    strong = torch.full((2, 3, 70), -20.0, dtype=torch.float64, requires_grad=True)
    for o, _ in (chunked(q, k, v, strong, beta, memory), token_loop(q, k, v, strong, beta, memory)):
        grad = torch.autograd.grad(o.sum(), strong)[0]
        assert bool(o.isfinite().all()) and bool(grad.isfinite().all())


def test_alibi_is_its_formula() -> None:
    """softmax(q_i . k_j / sqrt(d) - m_h (i - j)), m_h = 2^(-8 h / n)."""
    layer = made(MultiHeadAttention, position=ALiBi)
    x = tokens(BATCH, T)
    heads = layer.project(x)
    place = torch.arange(T)
    slopes = torch.tensor([2.0 ** (-8 * h / 4) for h in (1, 2, 3, 4)], dtype=torch.float64)
    assert slopes.tolist() == alibi_slopes(4)
    scores = heads.q @ heads.k.mT / 6**0.5 - slopes[:, None, None] * (place[:, None] - place[None, :])
    scores = scores.masked_fill(place[None, :] > place[:, None], -torch.inf)
    assert gap(layer.weights(x), scores.softmax(dim=-1)) < SAME


@pytest.mark.parametrize("length", SHORT)
def test_base_of_recurrent_slots(length: int) -> None:
    """Without features, decay, erasing, norm and gate: o_i = sum_{j <= i} q_i . k_j v_j / sqrt(d)."""
    layer: HeadedAttention = made(
        RecurrentAttention, feature_map=IdentityMap, decay=NoDecay, write=AddWrite, output_norm=NoOutputNorm
    )
    x = tokens(BATCH, length)
    q, k, _, _ = layer.qkv(x, None)  # type: ignore[operator]
    assert gap(layer.weights(x), (q @ k.mT).tril() / 6**0.5) < SAME
