"""The chapter's worked example, number by number, computed by the classes that train.

The weights are drawn here as the chapter draws them and loaded into the classes. Everything an entry shows comes from
a class: queries, keys and values from `project`, scores from `scores`, the mask from `visible`, weights from
`weights`, dropped weights from `attend_explicitly`, context vectors from `forward`.
"""

import json
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnlab.attention.base import Attention
from attnlab.attention.head_wrapper import HeadWrapper
from attnlab.attention.heads import Heads
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.score import Unscaled
from attnlab.attention.self_attention import SelfAttention
from attnlab.attention.simple import SimpleAttention
from attnlab.attention.softmax import SoftmaxAttention

GOLDEN = json.loads((Path(__file__).parent / "chapter3.json").read_text(encoding="utf-8"))
ENTRIES: dict[str, dict[str, Any]] = GOLDEN["entries"]
PRINTED = 6e-5  # four decimals were printed, so up to half of the last one is rounding
ROUNDING = 1e-6  # float32 sums of a few numbers near 1, in whatever order a library adds them

X = torch.tensor(GOLDEN["inputs"])[None]
BATCH = X.repeat(2, 1, 1)
POS = torch.arange(6)
JOURNEY = 1  # the token that the chapter follows


def tensor(numbers: Any) -> Tensor:
    """A list of numbers, in which "-inf" stands for minus infinity."""

    def parsed(node: Any) -> Any:
        return [parsed(n) for n in node] if isinstance(node, list) else float(node)

    return torch.tensor(parsed(numbers))


def linears(*shapes: tuple[int, int, bool]) -> list[nn.Linear]:
    """Linear layers drawn one after the other, in the order the chapter creates them."""
    return [nn.Linear(n_in, n_out, bias=bias) for n_in, n_out, bias in shapes]


def load(layer: SelfAttention | MultiHeadAttention, weights: Iterable[Tensor]) -> None:
    """Give a layer its W_q, W_k and W_v, each (out, in)."""
    with torch.no_grad():
        for part, weight in zip((layer.qkv.to_q, layer.qkv.to_k, layer.qkv.to_v), weights, strict=True):
            part.weight.copy_(weight)


def self_attention(weights: Iterable[Tensor], *, causal: bool, dropout: float = 0.0) -> SelfAttention:
    layer = SelfAttention(3, d_out=2, causal=causal, dropout=dropout)
    load(layer, weights)
    return layer.eval()


def rand_weights(seed: int | None) -> list[Tensor]:
    """W_q, W_k, W_v of `torch.rand(3, 2)`, turned to the (out, in) of a Linear; without a seed the stream goes on."""
    if seed is not None:
        torch.manual_seed(seed)
    return [torch.rand(3, 2).T for _ in range(3)]


def linear_weights(seed: int, heads: int = 1) -> list[Tensor]:
    """W_q, W_k, W_v of `nn.Linear(3, 2, bias=False)`, head after head."""
    torch.manual_seed(seed)
    return [linear.weight for linear in linears(*[(3, 2, False)] * 3 * heads)]


def scores(layer: SoftmaxAttention, x: Tensor) -> Tensor:
    """Scores as the chapter prints them, before the scale."""
    return layer.scores(layer.project(x), POS, POS, layer.visible(POS, POS))[0, 0] / layer.scale


def weights(layer: Attention, x: Tensor) -> Tensor:
    """The map of one sentence and one head."""
    a = layer.weights(x)
    assert a is not None
    return a[0, 0]


def without_trainable_weights() -> dict[str, Tensor]:
    """Section 3.3: SimpleAttention."""
    layer = SimpleAttention(3, causal=False).eval()
    s, a, y = scores(layer, X), weights(layer, X), layer(X)[0]
    return {
        "simple.scores_query2": s[JOURNEY],
        "simple.dot_1_1": s[1, 1],
        "simple.dot_0_1": s[0, 1],
        "simple.weights_query2_sumnorm": s[JOURNEY] / s[JOURNEY].sum(),
        "simple.weights_query2_softmax_naive": s[JOURNEY].exp() / s[JOURNEY].exp().sum(),
        "simple.weights_query2_softmax": a[JOURNEY],
        "simple.context_query2": y[JOURNEY],
        "simple.scores_all": s,
        "simple.weights_all": a,
        "simple.row_sums": a.sum(dim=-1),
        "simple.context_all": y,
    }


def with_trainable_weights() -> dict[str, Tensor]:
    """Section 3.4: SelfAttention, from torch.rand and then from nn.Linear; exercise 3.1 ends it."""
    v1 = self_attention(rand_weights(123), causal=False)
    q, k, v = v1.project(X)[:3]
    s = scores(v1, X)
    drawn, drawn_next = linear_weights(789), rand_weights(None)  # the second from where the first left the stream
    v2, v1_again = self_attention(drawn, causal=False), self_attention(drawn_next, causal=False)
    return {
        "self.query_2": q[0, 0, JOURNEY],
        "self.key_2": k[0, 0, JOURNEY],
        "self.value_2": v[0, 0, JOURNEY],
        "self.score_22": s[JOURNEY, JOURNEY],
        "self.scores_query2": s[JOURNEY],
        "self.weights_query2": weights(v1, X)[JOURNEY],
        "self.context_query2": v1(X)[0, JOURNEY],
        "self_v1.output": v1(X)[0],
        "self_v1.W_query": v1.qkv.to_q.weight.T,
        "self_v2.output": v2(X)[0],
        "self_v2.W_query_weight": v2.qkv.to_q.weight,
        "self_v2.W_query_weight_T": v2.qkv.to_q.weight.T,
        "self_v1.output_after_v2_no_reseed": v1_again(X)[0],
        "exercise_3_1.output": self_attention(linear_weights(123), causal=False)(X)[0],
    }


def masked() -> dict[str, Tensor]:
    """Section 3.5: SelfAttention that sees no later token, and dropout on its weights."""
    drawn = linear_weights(789)
    full, causal = self_attention(drawn, causal=False), self_attention(drawn, causal=True)
    visible = causal.visible(POS, POS)
    cut = weights(full, X) * visible
    layer = self_attention(linear_weights(123), causal=True)
    return {
        "causal.weights_unmasked": weights(full, X),
        "causal.tril": visible.float(),
        "causal.weights_times_tril": cut,
        "causal.weights_renormalised": cut / cut.sum(dim=-1, keepdim=True),
        "causal.scores_masked": scores(causal, X).masked_fill(~visible, -torch.inf),
        "causal.weights": weights(causal, X),
        "dropout.ones_p0.5": dropped(torch.zeros(3, 2, 3), causal=False) * 6,  # equal scores: all weights are 1/6
        "dropout.causal_weights_p0.5": dropped(drawn, causal=True),
        "causal_attention.output": layer(BATCH),
        "causal_attention.shape": layer(BATCH),
    }


def dropped(drawn: Iterable[Tensor], *, causal: bool) -> Tensor:
    """The weights of a layer in training after dropout with p = 0.5, in the stream of seed 123."""
    layer = self_attention(drawn, causal=causal, dropout=0.5).train()
    heads = layer.project(X)
    torch.manual_seed(123)
    return layer.attend_explicitly(heads._replace(v=torch.eye(6)[None, None]), POS, POS)[0, 0]


def several_heads() -> dict[str, Tensor]:
    """Section 3.6: single heads side by side, then one projection split into heads, and the sizes of GPT-2."""
    head = partial(SelfAttention, causal=True)
    wrapper = HeadWrapper(3, d_out=4, n_heads=2, pattern="head", kinds={"head": head}).eval()
    drawn = linear_weights(123, heads=2)
    for i, single in enumerate(wrapper.parts):
        assert isinstance(single, SelfAttention)
        load(single, drawn[3 * i : 3 * i + 3])

    torch.manual_seed(123)
    *qkv, out = linears((3, 2, False), (3, 2, False), (3, 2, False), (2, 2, True))
    multi = MultiHeadAttention(3, d_out=2, n_heads=2, out_bias=True).eval()
    load(multi, [linear.weight for linear in qkv])
    multi.to_out.load_state_dict(out.state_dict())

    a = torch.tensor(ENTRIES["batched_matmul.a_aT"]["inputs"])
    pairs = MultiHeadAttention(8, n_heads=2, score={"unscaled": Unscaled})
    sizes = MultiHeadAttention(768, n_heads=12, out_bias=True)  # 768 wide, 12 heads: GPT-2 small
    x = torch.rand(8, 4, 256)
    wide = MultiHeadAttention(256, n_heads=2, out_bias=True)(x)
    assert HeadWrapper(256, n_heads=2, pattern="head", kinds={"head": head})(x).shape == wide.shape
    return {
        "multihead_wrapper.output": wrapper(BATCH),
        "multihead.output": multi(BATCH),
        "batched_matmul.a_aT": pairs.scores(Heads(a, a, a), POS[:3], POS[:3], pairs.visible(POS[:3], POS[:3])),
        "exercise_3_3.param_count": torch.tensor(sum(p.numel() for p in sizes.parameters())),
        "bonus_multihead_notebook.shapes": wide,
    }


@cache
def computed() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return without_trainable_weights() | with_trainable_weights() | masked() | several_heads()


def draws_the_printed_mask() -> bool:
    """Whether this machine's dropout draws what was printed: Intel's library and torch's own generator differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        mask = nn.functional.dropout(torch.ones(6, 6), 0.5)
    return torch.equal(mask, tensor(ENTRIES["dropout.ones_p0.5"]["expected"]))


def test_printed_numbers() -> None:
    """Every printed number is reproduced and none is made up."""
    assert computed().keys() == ENTRIES.keys()


@pytest.mark.parametrize("name", ENTRIES)
def test_numbers_of_training_classes(name: str) -> None:
    """The printed numbers come out of the classes that train."""
    entry = ENTRIES[name]
    if entry.get("platform_dependent") and not draws_the_printed_mask():
        pytest.skip("on this machine torch draws another dropout mask than the one that was printed")
    found = computed()[name]
    if "expected_shape" in entry:
        assert list(found.shape) == entry["expected_shape"]
    if "expected" in entry:
        torch.testing.assert_close(found.float(), tensor(entry["expected"]), rtol=0, atol=PRINTED)
    if "float32" in entry:
        torch.testing.assert_close(found, tensor(entry["float32"]), rtol=0, atol=ROUNDING)


def test_every_entry_says_what_it_expects() -> None:
    assert all("expected" in entry or "expected_shape" in entry for entry in ENTRIES.values())
    assert {name for name, entry in ENTRIES.items() if "float32" not in entry} == {
        "causal_attention.shape",
        "exercise_3_3.param_count",
        "bonus_multihead_notebook.shapes",
    }


def test_dropout() -> None:
    """What the dropout entries say on every machine: one mask for both, zeros and twos, applied to the weights."""
    mask, found = computed()["dropout.ones_p0.5"], computed()["dropout.causal_weights_p0.5"]
    torch.testing.assert_close(mask, 2.0 * (mask > 1), rtol=0, atol=ROUNDING)
    assert 0 < int((mask > 1).sum()) < 36
    torch.testing.assert_close(found, mask * computed()["causal.weights"], rtol=0, atol=ROUNDING)
