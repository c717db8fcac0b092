"""Controls and synthesizers: each map as a plain formula, and what they are when something is set to nothing."""

from functools import partial
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from attnlab.attention.base import Attention
from attnlab.attention.controls import FrozenQKAttention, IdentityAttention, UniformAttention
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.rotary import RoPE
from attnlab.attention.synthesizer import DenseSynthesizer, RandomSynthesizer
from attnlab.errors import UsageError

WIDTH, HEADS, T, CONTEXT = 24, 4, 13, 17
A = TypeVar("A", bound=Attention)
same = partial(torch.testing.assert_close, rtol=0.0, atol=1e-10)  # float64


def ready(layer: A) -> A:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p) * 0.4)
    return layer.double().eval()


def tokens() -> Tensor:
    return torch.randn(2, T, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_identity_mixes_nothing() -> None:
    layer, x = ready(IdentityAttention(WIDTH, n_heads=HEADS)), tokens()
    same(layer(x), x @ layer.to_v.weight.T @ layer.to_out.weight.T)
    same(layer.weights(x), torch.eye(T, dtype=x.dtype).expand(2, HEADS, T, T))


def test_identity_with_a_convolution() -> None:
    """It sees its width and no further, and decoding in any cuts gives the same."""
    layer, x = ready(IdentityAttention(WIDTH, n_heads=HEADS, conv=3)), tokens()
    far, near = x.clone(), x.clone()
    far[:, T - 4] += 1
    near[:, T - 3] += 1
    same(layer(far)[:, -1], layer(x)[:, -1])
    assert not torch.allclose(layer(near)[:, -1], layer(x)[:, -1])
    same(layer.weights(x), torch.eye(T, dtype=x.dtype).expand(2, HEADS, T, T))
    for cuts in ([T], [1] * T, [1, 5, T - 6]):
        state, parts = layer.init_state(2, T), []
        for part in x.split(cuts, dim=1):
            y, state = layer.step(part, state)
            parts.append(y)
        same(torch.cat(parts, dim=1), layer(x))
    assert layer.traits.can_recall and not IdentityAttention(WIDTH, n_heads=HEADS).traits.can_recall


def test_uniform_is_the_average_so_far() -> None:
    layer, x = ready(UniformAttention(WIDTH, n_heads=HEADS)), tokens()
    means = torch.stack([x[:, : i + 1].mean(dim=1) for i in range(T)], dim=1)
    same(layer(x), means @ layer.to_v.weight.T @ layer.to_out.weight.T)


def test_frozen_qk() -> None:
    """Frozen queries and keys are multi head attention that trains the rest."""
    frozen = ready(FrozenQKAttention(WIDTH, n_heads=HEADS, position=RoPE))
    full, x = ready(MultiHeadAttention(WIDTH, n_heads=HEADS, position=RoPE)), tokens()
    full.load_state_dict(frozen.state_dict())
    same(frozen(x), full(x))
    frozen(x).square().sum().backward()
    full(x).square().sum().backward()
    for (name, p), other in zip(frozen.named_parameters(), full.parameters(), strict=True):
        if name in ("qkv.to_q.weight", "qkv.to_k.weight"):
            assert p.grad is None
        else:
            same(p.grad, other.grad)


def softmax_rows(scores: Tensor) -> Tensor:
    """Softmax of each row i over its entries j <= i, by loops."""
    rows = torch.zeros_like(scores)
    for i in range(scores.size(-2)):
        e = scores[..., i, : i + 1].exp()
        rows[..., i, : i + 1] = e / e.sum(dim=-1, keepdim=True)
    return rows


def test_dense_synthesizer_follows_its_formula() -> None:
    layer, x = ready(DenseSynthesizer(WIDTH, n_heads=HEADS, context=CONTEXT)), tokens()
    maps = []
    for h in range(HEADS):
        rows = slice(h * layer.head_dim, (h + 1) * layer.head_dim)
        z = x @ layer.to_hidden.weight[rows].T + layer.to_hidden.bias[rows]
        hidden = z * 0.5 * (1 + torch.erf(z / 2**0.5))
        maps.append(softmax_rows((hidden @ layer.to_scores[h].weight.T)[..., :T]))  # type: ignore[operator]
    same(layer.weights(x), torch.stack(maps, dim=1))


def test_random_synthesizer_reads_its_table() -> None:
    layer, x = ready(RandomSynthesizer(WIDTH, n_heads=HEADS, context=CONTEXT)), tokens()
    scores, entries = torch.zeros(HEADS, T, T, dtype=x.dtype), iter(range(layer.table.size(1)))
    for i in range(1, T):
        for j in range(i + 1):
            scores[:, i, j] = layer.table[:, next(entries)]
    same(layer.weights(x), softmax_rows(scores).expand(2, -1, -1, -1))


@pytest.mark.parametrize("make", [DenseSynthesizer, RandomSynthesizer])
def test_synthesizer_limit(
    make: type[DenseSynthesizer] | type[RandomSynthesizer],
) -> None:
    """A synthesizer refuses positions it does not know."""
    layer = make(WIDTH, n_heads=HEADS, context=T - 1).double()
    with pytest.raises(UsageError, match=rf"knows {T - 1} positions .* not {T}"):
        layer(tokens())
