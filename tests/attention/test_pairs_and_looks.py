"""Rules that read more of the tokens than queries and keys, each against its formula written plainly."""

import torch
import torch.nn.functional as F

from attnlab.attention.dynamic_heads import DynamicHeads
from attnlab.attention.key_offset import KeyOffsetAttention
from attnlab.attention.look_ahead import LookAhead
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.normalizer import Sink, Softmax1
from attnlab.attention.paired_heads import PairedHeadsAttention
from attnlab.attention.polar import PoPE
from attnlab.attention.query_sink import QuerySink
from attnlab.attention.relative_logits import RelativeLogits
from attnlab.attention.score_chain import of_each
from attnlab.attention.value_embedding import ValueEmbeddingAttention
from attnlab.laws.subject import perturbed

T, WIDTH = 7, 8
X = torch.randn(2, T, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_paired_heads() -> None:
    """Queries, keys and values of two heads in turn, under the causal mask of the kernel."""
    layer = PairedHeadsAttention(WIDTH, n_heads=4).double().eval()
    perturbed(layer)
    q, k, v = (
        to(X).unflatten(-1, (2, 2, 2)).permute(0, 2, 1, 3, 4).flatten(2, 3)
        for to in (layer.qkv.to_q, layer.qkv.to_k, layer.qkv.to_v)
    )
    o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    y = layer.to_out(o.unflatten(2, (T, 2)).permute(0, 2, 1, 3, 4).flatten(2))
    torch.testing.assert_close(layer(X), y, rtol=1e-10, atol=1e-10)


def test_look_ahead_keys() -> None:
    """Sums over tokens between key and query, one by one."""
    layer = MultiHeadAttention(WIDTH, n_heads=2, score={"it": LookAhead}).double().eval()
    perturbed(layer)
    (mod,), heads = layer.score_mods, layer.project(X)
    assert isinstance(mod, LookAhead) and heads.carried is not None
    a, b, c = heads.carried.split(mod.widths, dim=-1)
    ahead = torch.zeros(2, 2, T, T, dtype=torch.float64)
    for i in range(T):
        for j in range(i + 1):
            for m in range(j + 1, i + 1):
                took = ((a[:, :, j] * b[:, :, m]).sum(-1) * layer.scale).sigmoid()
                ahead[:, :, i, j] += took * (heads.q[:, :, i] * c[:, :, m]).sum(-1) * layer.scale
    scores = heads.q @ heads.k.mT * layer.scale - F.silu(ahead)
    weights = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)
    torch.testing.assert_close(layer.weights(X), weights, rtol=1e-10, atol=1e-10)


def test_a_sink_that_all_queries_share() -> None:
    """Where the sink is the same for each query, it is the learned one."""
    layer = MultiHeadAttention(WIDTH, n_heads=2, score={"it": QuerySink}, normalizer=Softmax1).double().eval()
    other = MultiHeadAttention(WIDTH, n_heads=2, normalizer=Sink).double().eval()
    x = X.clone()
    x[..., 0] = 1.0
    layer.score_mods[0].to_sink.weight.data.zero_()[:, 0] = torch.tensor([0.5, -1.0])
    other.normalizer.logit.data.copy_(torch.tensor([0.5, -1.0]))
    other.load_state_dict({n: p for n, p in layer.state_dict().items() if "score" not in n}, strict=False)
    torch.testing.assert_close(layer(x), other(x), rtol=1e-10, atol=1e-10)


def test_reduces_to_multi_head() -> None:
    """Mixtures, curves and tables of zeros change nothing, nor does a table that no model has asked for."""
    plain = MultiHeadAttention(WIDTH, n_heads=2).double().eval()
    layers = [
        MultiHeadAttention(WIDTH, n_heads=2, score={"it": DynamicHeads}),
        MultiHeadAttention(WIDTH, n_heads=2, score={"it": RelativeLogits}),
        ValueEmbeddingAttention(WIDTH, n_heads=2, channels=4),
    ]
    for layer in layers:
        layer.double().eval().load_state_dict(plain.state_dict(), strict=False)
        for mod in layer.score_mods:
            for linear in (m for m in mod.modules() if isinstance(m, torch.nn.Linear)):
                linear.weight.data.zero_()
        torch.testing.assert_close(layer(X), plain(X), rtol=1e-10, atol=1e-10)


def test_keys_of_the_token_before() -> None:
    layer = KeyOffsetAttention(WIDTH, n_heads=2, fraction=0.5).double().eval()
    keys, plain = layer.project(X).k, layer.qkv(X, None)[1]
    assert torch.equal(keys[..., :2], plain[..., :2])
    assert torch.equal(keys[:, :, 1:, 2:], plain[:, :, :-1, 2:]) and torch.equal(keys[:, :, 0], plain[:, :, 0])


def test_polar_scores() -> None:
    """Lengths of contents times the cosine of the distance's angle."""
    rule = PoPE(head_dim=3, n_heads=1, context=T).double()
    rule.delta.data.uniform_(-1, 1)
    q, k = X[:1, None, :, :3], X[1:, None, :, :3]
    distance = torch.arange(T)[:, None] - torch.arange(T)
    angles = distance[..., None] * 10000.0 ** (-torch.arange(3, dtype=torch.float64) / 3) - rule.delta[0, 0]
    scores = (F.softplus(q)[..., :, None, :] * F.softplus(k)[..., None, :, :] * angles.cos()).sum(-1)
    torch.testing.assert_close(rule.rotate(q) @ rule.rotate_keys(k).mT, scores, rtol=1e-10, atol=1e-10)


def test_numbers_of_each_modifier() -> None:
    one, other = (QuerySink(d_model=4, n_heads=2, head_dim=2) for _ in range(2))
    parts = of_each(torch.arange(3.0).expand(1, 1, 1, 3), {one: 1, other: 2})
    assert parts[one].flatten().tolist() == [0] and parts[other].flatten().tolist() == [1, 2]
    assert of_each(None, {one: 1}) == {}
