"""Layers with a state of fixed size, on the simplest of them: a sum."""

import pytest
import torch
from tests.attention.plain_layers import Sum, draw

from attnlab.attention.state import RecurrentState, StateAttention


@pytest.mark.parametrize("cuts", [[7], [1] * 7, [3, 0, 4]])
def test_cuts(cuts: list[int]) -> None:
    """However a sequence is cut, tokens are written once, in their order, into a memory that does not grow."""
    layer, x = Sum(4, n_heads=2).double(), draw(3, 7, 4)
    assert isinstance(layer, StateAttention)
    state, outputs = layer.init_state(3, 100), []
    for piece in x.split(cuts, dim=1):
        o, state = layer.step(piece, state)
        outputs.append(o)
    torch.testing.assert_close(torch.cat(outputs, dim=1), x.cumsum(dim=1))
    torch.testing.assert_close(layer(x), x.cumsum(dim=1))
    assert isinstance(state, RecurrentState) and state.length == 7 and state.memory.shape == (3, 2, 1, 2)


def test_map() -> None:
    """The map is read off the layer's own scan, at the width of the text: a triangle of ones."""
    maps = Sum(4, n_heads=2)(torch.zeros(1, 5, 4)), Sum(4, n_heads=2).weights(torch.zeros(1, 5, 4))
    assert maps[1] is not None and torch.equal(maps[1], torch.ones(5, 5).tril().expand(1, 2, 5, 5))


def test_memory_type() -> None:
    """A sum is kept in float32 at least: in bfloat16 it would stop growing at 256."""
    layer = Sum(1, n_heads=1).to(torch.bfloat16)
    assert layer.zeros(2, 3).dtype == torch.float32 and layer.double().zeros(2, 3).dtype == torch.float64
    layer, x = layer.to(torch.bfloat16), torch.ones(1, 1, 1, dtype=torch.bfloat16)
    state = layer.init_state(1, 400)
    for _ in range(400):
        y, state = layer.step(x, state)
    assert float(y) == 400
