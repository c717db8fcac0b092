"""Tokens that a layer was not built for are refused in one line by every variant, however they are handed over."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.laws.cases import NAMES, sampled, shipped
from torch import Tensor, nn

from attnlab.attention.base import Attention
from attnlab.attention.self_attention import SelfAttention
from attnlab.attention.simple import SimpleAttention
from attnlab.attention.traits import Traits
from attnlab.errors import UsageError
from attnlab.laws.subject import D_MODEL

WRONG = {
    "unbatched": torch.zeros(6, D_MODEL),
    "square": torch.zeros(D_MODEL, D_MODEL),
    "narrow": torch.zeros(2, 6, D_MODEL - 1),
    "turned": torch.zeros(2, D_MODEL, 6),
    "four axes": torch.zeros(2, 1, 6, D_MODEL),
    "integers": torch.zeros(2, 6, D_MODEL, dtype=torch.long),
    "double": torch.zeros(2, 6, D_MODEL, dtype=torch.float64),
    "a list": [[0.0] * D_MODEL],
}


def refused(call: Callable[[Any], object], x: Any) -> str:
    with pytest.raises(UsageError) as error:
        call(x)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", sampled([(name,) for name in NAMES], 6))
def test_wrong_tokens(name: str) -> None:
    """By `forward`, `weights`, `value_norms` and `step` alike, and the line names the shape or the type."""
    layer = shipped(name).layer(0)
    state = layer.init_state(2, 6)
    for word, x in WRONG.items():
        for call in (layer, layer.weights, layer.value_norms, partial(layer.step, state=state)):
            told = refused(call, x)
            assert ("torch.float32" if word in ("integers", "double") else f"tokens, {D_MODEL})") in told


def test_unbatched_hint() -> None:
    for layer in (SimpleAttention(3), SelfAttention(3)):
        assert refused(layer, torch.zeros(6, 3)).endswith("not (6, 3); x[None] is a batch of one")


class Sum(Attention):
    """A mixer of somebody else's, without a weight that would notice."""

    traits = Traits("nonnegative", "constant")

    def forward(self, x: Tensor, shared: Any = None) -> Tensor:
        return x.cumsum(dim=-2)

    def weights(self, x: Tensor, shared: Any = None) -> Tensor:
        return torch.ones(x.size(0), 1, x.size(1), x.size(1)).tril()

    def init_state(self, batch: int, max_len: int) -> Tensor:
        return torch.zeros(batch, 1, self.d_model)

    def step(self, x: Tensor, state: Any, shared: Any = None) -> tuple[Tensor, Any]:
        y = state + x.cumsum(dim=-2)
        return y, y[:, -1:]


def test_a_class_of_the_users() -> None:
    """Who writes a layer need not think of it; right tokens pass, and autocast may hand over either type."""
    layer = Sum(3)
    for call in (layer, layer.weights, partial(layer.step, state=layer.init_state(6, 3))):
        refused(call, torch.zeros(6, 3))
        call(torch.zeros(6, 2, 3))
    assert layer.double()(torch.zeros(1, 2, 3, dtype=torch.float64)).dtype == torch.float64
    attention: nn.Module = SelfAttention(3)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            attention(torch.zeros(1, 2, 3, dtype=dtype))
        refused(attention, torch.zeros(1, 2, 3, dtype=torch.long))
    refused(attention, torch.zeros(1, 2, 3, dtype=torch.bfloat16))
