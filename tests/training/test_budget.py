"""What the layers of a model spend, where it can be counted by hand."""

from functools import partial
from typing import Any

import pytest
from tests.attention.plain_layers import Sum

from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.model import GPT
from attnlab.options.model_config import ModelConfig
from attnlab.training.budget import parameters, state_bytes, step_seconds, training_flops

T, C, LAYERS, HIDDEN = 8, 12, 2, 48


def model(attention: Any, vocab: int = 5) -> GPT:
    sizes = ModelConfig(n_layers=LAYERS, d_model=C, context=T, mlp="gelu", mlp_ratio=HIDDEN / C)
    return GPT(sizes, vocab_size=vocab, attention=attention)


def test_vocabulary() -> None:
    """How many tokens there are decides nothing: a layer is as large beside any vocabulary."""
    small, large = (model(partial(MultiHeadAttention, n_heads=2), vocab).to("meta") for vocab in (5, 500))
    assert parameters(small) == parameters(large) and training_flops(small) == training_flops(large)


def test_attention_alone() -> None:
    """Four square matrices are what multi-head attention has more than a layer without parameters."""
    with_heads, without = (model(kind) for kind in (partial(MultiHeadAttention, n_heads=2), partial(Sum, n_heads=2)))
    assert parameters(with_heads) - parameters(without) == LAYERS * 4 * C * C


def test_flops() -> None:
    """Forward, and twice as much backward: two matrices of the MLP, and four of the attention beside its map."""
    mlp, square = 2 * (2 * T * C * HIDDEN), 4 * (2 * T * C * C)
    assert training_flops(model(partial(Sum, n_heads=2)).to("meta")) == 3 * LAYERS * mlp
    scores = 2 * (2 * T * T * C)
    flops = training_flops(model(partial(MultiHeadAttention, n_heads=2)).to("meta"))
    assert 3 * LAYERS * (mlp + square) < flops <= 3 * LAYERS * (mlp + square + 2 * scores)


@pytest.mark.parametrize("shared", [1, 2, 4])
def test_state(shared: int) -> None:
    """Keys and values of every token in float32, of as many heads as have their own."""
    layer = partial(MultiHeadAttention, n_heads=4, n_kv_heads=4 // shared)
    assert state_bytes(model(layer).to("meta")) == LAYERS * 2 * T * (C // shared) * 4
    assert state_bytes(model(partial(Sum, n_heads=4)).to("meta")) == LAYERS * C * 4


def test_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are measured in turn, each by its own passes, and of these by the median."""
    clock = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock) / 1000)
    monkeypatch.setattr("attnlab.training.budget.PROBE_SECONDS", 0.0)
    took = step_seconds([model(partial(Sum, n_heads=2)) for _ in range(3)], 1, bf16=False)
    assert took == pytest.approx([0.001] * 3)
