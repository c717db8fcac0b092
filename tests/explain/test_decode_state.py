"""What a layer of fixed memory keeps after each token."""

import numpy as np
import torch
from tests.attention.plain_layers import Sum, draw

from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.shared import Shared
from attnlab.explain.decode_state import memory_steps


def test_memory() -> None:
    """The memory of a sum holds the sum so far, and what a token writes is the token."""
    x = draw(1, 5, 6).float()
    wrote, after = memory_steps(Sum(6, n_heads=2), x, Shared())
    assert (wrote.shape, after.shape) == ("state", "state")
    tokens = x[0].unflatten(-1, (2, 3))[:, :, None].numpy()  # (token, head, row, column)
    np.testing.assert_allclose(wrote.values, tokens, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.values, tokens.cumsum(axis=0), rtol=1e-5, atol=1e-6)


def test_nothing_to_show() -> None:
    """A cache that grows with the text is none, nor is a memory in which nothing happens."""
    assert memory_steps(MultiHeadAttention(6, n_heads=2), draw(1, 3, 6).float(), Shared()) == []
    assert memory_steps(Sum(6, n_heads=2), torch.zeros(1, 3, 6), Shared()) == []
