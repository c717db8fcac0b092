"""The recurrent family: every mechanism against its formula in plain loops."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.attention.decay import ChannelDecay, Decay, FixedDecay, KimiDecay, NoDecay, ScalarDecay, StepDecay
from attnlab.attention.feature_map import IdentityMap, RandomFeatures, SiLUFeatures, Taylor, UnitLength
from attnlab.attention.log_linear import LogLinearAttention
from attnlab.attention.output_norm import SumNorm
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.scan import chunked, token_loop
from attnlab.attention.write import DeltaWrite
from attnlab.errors import UsageError
from attnlab.laws.subject import BATCH, D_MODEL, SAME, gap, perturbed, tokens

T, HEADS, WIDTH = 21, 4, 6


def made(cls: type[RecurrentAttention] = RecurrentAttention, **options: Any) -> Any:
    """A layer in fp64 off its initial values, which are left as the modules make them."""
    torch.manual_seed(0)
    layer = cls(D_MODEL, n_heads=HEADS, **options).double().eval()
    perturbed(layer)
    return layer


def scan_inputs(t: int, writes: bool, strength: float = 1.0) -> list[Tensor | None]:
    """Queries, keys, values, a log decay per channel, write strengths and a memory that is not empty; d = 5, v = 3."""
    draw = torch.Generator().manual_seed(t)
    q, k, v, g, beta, memory = (
        torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in ((2, 3, t, 5), (2, 3, t, 5), (2, 3, t, 3), (2, 3, t, 5), (2, 3, t), (2, 3, 5, 3))
    )
    given = [q, F.normalize(k, dim=-1), v, F.logsigmoid(g) * strength, beta.sigmoid() if writes else None, memory]
    return [None if x is None else x.detach().requires_grad_() for x in given]


def plain(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor | None, memory: Tensor) -> tuple[Tensor, Tensor]:
    """S = (I - beta k k^T) diag(a) S + beta k v^T, or S = diag(a) S + k v^T without beta; o = S^T q."""
    all_out, all_memory = [], []
    for b in range(q.size(0)):
        for h in range(q.size(1)):
            s, out = memory[b, h], []
            for t in range(q.size(2)):
                key, strength = k[b, h, t], 1.0 if beta is None else beta[b, h, t]
                s = torch.diag(g[b, h, t].exp()) @ s
                if beta is not None:
                    s = (torch.eye(key.numel(), dtype=key.dtype) - strength * torch.outer(key, key)) @ s
                s = s + strength * torch.outer(key, v[b, h, t])
                out.append(s.mT @ q[b, h, t])
            all_out.append(torch.stack(out))
            all_memory.append(s)
    shape = q.shape[:2]
    return torch.stack(all_out).unflatten(0, shape), torch.stack(all_memory).unflatten(0, shape)


@pytest.mark.parametrize("t", [1, 7, 16, 29])
@pytest.mark.parametrize("writes", [False, True])
def test_channel_decay(t: int, writes: bool) -> None:
    """A decay per channel is its formula in values and gradients."""
    results = []
    runs: list[Callable[..., tuple[Tensor, Tensor]]] = [plain, token_loop]
    runs += [partial(chunked, chunk=chunk) for chunk in (1, 3, 12, 64)]
    for run in runs:
        given = scan_inputs(t, writes)
        o, memory = run(*given)
        draw = torch.Generator().manual_seed(1)
        shares = [(y * torch.randn(y.shape, generator=draw, dtype=y.dtype)).sum() for y in (o, memory)]
        loss = shares[0] + shares[1]
        results.append([o, memory, *torch.autograd.grad(loss, [x for x in given if x is not None])])
    for other in results[1:]:
        for mine, right in zip(other, results[0], strict=True):
            assert gap(mine, right) < SAME


@pytest.mark.parametrize("writes", [False, True])
def test_strong_decay_exact(writes: bool) -> None:
    """Log decays add up to thousands in a chunk, and differ by as much from channel to channel."""
    results = []
    for run in (token_loop, chunked):
        given = scan_inputs(70, writes, strength=60.0)
        o, _ = run(*given)  # type: ignore[arg-type]
        results.append([o, *torch.autograd.grad(o.square().sum(), [x for x in given if x is not None])])
    for mine, right in zip(results[1], results[0], strict=True):
        assert bool(mine.isfinite().all()) and gap(mine, right) < SAME


def test_equal_channels_are_a_scalar_decay() -> None:
    """Channels that fade alike are a scalar decay."""
    given = scan_inputs(T, True)
    q, k, v, g, beta, memory = given
    assert g is not None
    tied = g[..., :1].expand_as(g)
    for strength in (None, beta):
        for run in (token_loop, partial(chunked, chunk=8)):
            one = run(q, k, v, tied, strength, memory)  # type: ignore[arg-type]
            other = run(q, k, v, g[..., 0], strength, memory)  # type: ignore[arg-type]
            assert gap(one[0], other[0]) < SAME and gap(one[1], other[1]) < SAME


def test_the_channel_decay_is_its_formula() -> None:
    """a = sigmoid(W2 W1 x + b)^(1/16)."""
    decay = made(decay=ChannelDecay).decay
    x = tokens(BATCH, T)
    scores = (x @ decay.to_rank.weight.mT @ decay.to_decay.weight.mT).unflatten(-1, (HEADS, WIDTH)) + decay.bias
    assert gap(decay.project(x).exp(), scores.sigmoid().pow(1 / 16).transpose(1, 2)) < SAME


def test_fixed_decay_in_bfloat16() -> None:
    """A rate that is off by a part in 500 is forgotten twice as much after 350 steps of a slow head."""
    decay, x = made(decay=FixedDecay).decay, torch.zeros(1, 1, 24)
    exact = decay.project(x)
    torch.testing.assert_close(decay.bfloat16().project(x.bfloat16()), exact, rtol=0.0, atol=0.0)


def test_a_step_decay_is_its_formula() -> None:
    """A_ij = exp(-exp(A) sum of D over j < s <= i) q_i . k_j D_j / sqrt(d)."""
    layer = made(decay=StepDecay, chunk=8)
    x = tokens(BATCH, T)
    q, k, _, _ = layer.qkv(x, None)
    step = F.softplus(x @ layer.decay.to_decay.weight.mT + layer.decay.bias).transpose(1, 2)
    right = torch.zeros(BATCH, HEADS, T, T, dtype=x.dtype)
    for i in range(T):
        for j in range(i + 1):
            decay = (-layer.decay.log_rate.exp() * step[:, :, j + 1 : i + 1].sum(dim=-1)).exp()
            right[:, :, i, j] = decay * (q[:, :, i] * k[:, :, j]).sum(dim=-1) * step[:, :, j] / WIDTH**0.5
    assert gap(layer.weights(x), right) < SAME


@pytest.mark.parametrize("decay", [ScalarDecay, StepDecay, KimiDecay])
def test_decay_start_values(decay: type[ScalarDecay | KimiDecay]) -> None:
    """A decay starts at the same digits on every processor."""
    # Logarithms in float32 come from libraries that round their last digit as the processor has it; Python's do not.
    layer = decay(d_model=D_MODEL, n_heads=HEADS, head_dim=WIDTH)
    assert layer.log_rate.dtype == layer.bias.dtype == torch.float32
    assert layer.log_rate.tolist() == torch.tensor([math.log(1 + 5 * h) for h in range(HEADS)]).tolist()
    n = layer.bias.numel()
    steps = [10 ** (-1 - 2 * i / (n - 1)) for i in range(n)]
    assert layer.bias.flatten().tolist() == torch.tensor([math.log(math.expm1(step)) for step in steps]).tolist()


def test_silu_features_are_their_formula() -> None:
    layer = made(feature_map=SiLUFeatures)
    x = tokens(BATCH, T)
    q, k, _, _ = layer.qkv(x, None)
    assert gap(layer.weights(x), ((q * q.sigmoid()) @ (k * k.sigmoid()).mT).tril() / WIDTH**0.5) < SAME


def test_taylor_features() -> None:
    """Taylor features give the series of an exponential."""
    layer = made(feature_map=Taylor, output_norm=SumNorm, chunk=8)
    x = 3 * tokens(BATCH, T)
    q, k, _, _ = layer.qkv(x, None)
    s = q @ k.mT / WIDTH**0.5
    weights = (1 + s + s.square() / 2).tril()
    assert gap(layer.weights(x), weights / weights.sum(dim=-1, keepdim=True)) < SAME


def test_random_features_are_their_formula() -> None:
    """A_ij is proportional to the sum over directions w of exp(w . q - |q|^2 / 2) exp(w . k - |k|^2 / 2)."""
    layer = made(feature_map=partial(RandomFeatures, features=15), output_norm=SumNorm, chunk=8)
    x = tokens(BATCH, T)
    q, k = (y / WIDTH**0.25 for y in layer.qkv(x, None)[:2])
    weights = torch.zeros(BATCH, HEADS, T, T, dtype=x.dtype)
    for w in layer.feature_map.directions:
        of_q, of_k = ((y @ w - y.square().sum(dim=-1) / 2).exp() for y in (q, k))
        weights += (of_q[..., :, None] * of_k[..., None, :]).tril()
    assert gap(layer.weights(x), weights / weights.sum(dim=-1, keepdim=True)) < SAME


def test_random_features() -> None:
    """Many random features estimate an exponential."""
    features = RandomFeatures(head_dim=WIDTH, features=2**14)
    q, k = torch.randn(2, 1, 1, T, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
    estimate, right = features(q) @ features(k).mT, (q @ k.mT / WIDTH**0.5).exp()
    assert gap(estimate / right, torch.ones_like(right)) < 0.15  # 2^14 draws: off by a few hundredths


def test_random_directions() -> None:
    """Random directions are at right angles in groups and always the same."""
    one, other = (RandomFeatures(head_dim=WIDTH, features=15).directions for _ in range(2))
    assert torch.equal(one, other)
    for group in one.split(WIDTH):
        products = group @ group.mT
        assert gap(products, products.diagonal().diag()) < 1e-5  # drawn in float32


@pytest.mark.parametrize("decay", [ChannelDecay, KimiDecay])
def test_channel_decay_refused(decay: type[Decay]) -> None:
    """A decay per channel is refused where channels are not those of the head."""
    with pytest.raises(UsageError, match=r"6 channels of a head.*Taylor.*28 features"):
        made(decay=decay, feature_map=Taylor)
    with pytest.raises(UsageError, match=rf"{decay.__name__}.*attention=log_linear"):
        LogLinearAttention(D_MODEL, n_heads=HEADS, decay=decay)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match=r"decay=step .*DeltaWrite"):
        made(decay=StepDecay, feature_map=UnitLength, write=DeltaWrite)
    with pytest.raises(UsageError, match=r"rank \(0\) must be an integer of at least 1"):
        made(decay=partial(ChannelDecay, rank=0))
    with pytest.raises(UsageError, match=r"features \(0\) must be an integer of at least 1"):
        made(feature_map=partial(RandomFeatures, features=0))
    with pytest.raises(UsageError, match="output_norm=sum"):
        made(feature_map=IdentityMap, output_norm=SumNorm)
    with pytest.raises(UsageError, match=r"writes \(2\) must be 1 unless"):
        made(writes=2)
    with pytest.raises(UsageError, match=r"writes \(0\) must be an integer of at least 1"):
        made(writes=0)


@pytest.mark.parametrize("decay", [NoDecay, ScalarDecay, KimiDecay])
@pytest.mark.parametrize("writes", [2, 3])
def test_delta_product(decay: type[Decay], writes: int) -> None:
    """S <- a S; n times S <- (I - beta k k^T) S + beta k v^T; o = S^T q."""
    layer = made(feature_map=UnitLength, write=DeltaWrite, decay=decay, writes=writes, chunk=8)
    heads = layer.project(tokens(BATCH, T))
    k, v, beta = (y.unflatten(1, (HEADS, writes)) for y in (heads.k, heads.v, heads.beta))
    out = torch.zeros(BATCH, HEADS, T, WIDTH, dtype=v.dtype)
    for b in range(BATCH):
        for h in range(HEADS):
            s, rows = torch.zeros(WIDTH, WIDTH, dtype=v.dtype), []
            for t in range(T):
                if heads.log_decay is not None:
                    s = heads.log_decay[b, h, t].exp().expand(WIDTH)[:, None] * s
                for m in range(writes):
                    key = k[b, h, m, t]
                    s = s - beta[b, h, m, t] * torch.outer(key, s.mT @ key - v[b, h, m, t])
                rows.append(s.mT @ heads.q[b, h, t])
            out[b, h] = torch.stack(rows)
    mixed, parameters = layer.mix(heads), list(layer.qkv.parameters()) + list(layer.write.parameters())
    assert gap(mixed, out) < SAME
    grads = (torch.autograd.grad(y.sin().sum(), parameters, retain_graph=True) for y in (mixed, out))
    for mine, right in zip(*grads, strict=True):
        assert gap(mine, right) < SAME
