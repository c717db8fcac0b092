"""Layers that read what lower layers publish, when several stand side by side on one layer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from attnlab.attention.base import Attention
from attnlab.attention.head_wrapper import HeadWrapper
from attnlab.attention.layer_sharing import FirstValues, ValueResidualAttention
from attnlab.attention.shared import Shared

C, T, H = 6, 5, 3


def layers() -> tuple[HeadWrapper, HeadWrapper]:
    """A layer that publishes first values and one that reads them, of three heads each."""
    make = partial(
        HeadWrapper, C, n_heads=H, pattern="one", kinds={"one": partial(ValueResidualAttention, n_heads=1)}, n_layers=2
    )
    torch.manual_seed(0)
    return make(layer=0).double(), make(layer=1).double()


def tokens(seed: int) -> Tensor:
    return torch.randn(2, T, C, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def outputs(below: Attention, above: Attention) -> Tensor:
    shared = Shared()
    below(tokens(1), shared)
    return above(tokens(2), shared)


def test_heads_read_their_own() -> None:
    """Heads side by side read what the head in their place published."""
    below, above = layers()
    alone = [outputs(low, high) for low, high in zip(below.parts, above.parts, strict=True)]
    torch.testing.assert_close(outputs(below, above), torch.cat(alone, dim=-1), rtol=0, atol=0)


def test_decoding_reads_the_same_place() -> None:
    below, above = layers()
    states, out = [below.init_state(2, T), above.init_state(2, T)], []
    for i in range(T):
        shared = Shared()
        _, states[0] = below.step(tokens(1)[:, i : i + 1], states[0], shared)
        y, states[1] = above.step(tokens(2)[:, i : i + 1], states[1], shared)
        out.append(y)
    torch.testing.assert_close(torch.cat(out, dim=1), outputs(below, above))


@pytest.mark.parametrize("look", [HeadWrapper.weights, HeadWrapper.value_norms], ids=["weights", "value_norms"])
def test_maps_and_norms_read_the_same_place(look: Callable[..., Any]) -> None:
    below, above = layers()
    shared, parts = Shared(), [Shared() for _ in range(H)]
    below(tokens(1), shared)
    for low, part in zip(below.parts, parts, strict=True):
        low(tokens(1), part)
    alone = [getattr(high, look.__name__)(tokens(2), part) for high, part in zip(above.parts, parts, strict=True)]
    torch.testing.assert_close(look(above, tokens(2), shared), torch.cat(alone, dim=1), rtol=0, atol=0)


def test_requires_combine() -> None:
    """What heads read is what their layer reads so that its cost can be measured."""
    below, above = layers()
    assert (below.traits.requires, above.traits.requires) == ((), (FirstValues,))
    assert above.cost(T, [below]).pairs == T * (T + 1) // 2
