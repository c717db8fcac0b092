"""What all attention under a mask has in common, on a layer whose weights are means."""

from functools import partial

import pytest
import torch
from tests.attention.plain_layers import Mean, draw

from attnlab.attention.heads import Heads
from attnlab.attention.mask import Chunked, Mask, Window
from attnlab.attention.masked import MaskedAttention


@pytest.mark.parametrize("mask", [partial(Window, 3), partial(Chunked, 4)])
@pytest.mark.parametrize("t", [9, 130])
def test_blocks(mask: partial[Mask], t: int) -> None:
    """Short, as one map, or long, in blocks: each token has the mean of those that its mask shows it."""
    layer, x = Mean(6, n_heads=2, mask=mask), draw(1, t, 6)
    pos = torch.arange(t)
    visible = mask().visible(pos, pos)
    expected = torch.stack([x[0, visible[i]].mean(dim=0) for i in range(t)])
    assert isinstance(layer, MaskedAttention)
    torch.testing.assert_close(layer.double()(x)[0], expected)


def test_empty_slots() -> None:
    """A slot of a ring that holds no token yet (position -1) is never read, whatever the mask says."""
    layer = Mean(4, n_heads=1, mask=partial(Window, 5)).double()
    heads = Heads(draw(1, 1, 1, 4), draw(1, 1, 3, 4), draw(1, 1, 3, 4))
    o = layer.attend(heads, torch.tensor([1]), torch.tensor([1, -1, 0]))
    torch.testing.assert_close(o[0, 0, 0], heads.v[0, 0, [0, 2]].mean(dim=0))


def test_no_queries() -> None:
    """A step without tokens has no output, and no mean over nothing."""
    layer = Mean(4, n_heads=2)
    heads = Heads(torch.zeros(3, 2, 0, 2), torch.zeros(3, 2, 5, 2), torch.zeros(3, 2, 5, 2))
    assert layer.attend_explicitly(heads, torch.arange(0), torch.arange(5)).shape == (3, 2, 0, 2)


def test_dropout() -> None:
    """Weights are dropped while training and not else; what is left counts for more, so that the mean stays."""
    layer, x = Mean(2, n_heads=1, dropout=0.25), torch.ones(64, 50, 2)
    torch.testing.assert_close(layer.eval()(x), torch.ones_like(x))
    torch.manual_seed(0)
    y = layer.train()(x)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.02) and not torch.allclose(y, torch.ones_like(x))
    torch.testing.assert_close(y[:, 0].unique(), torch.tensor([0.0, 4 / 3]))  # the first token reads itself alone
