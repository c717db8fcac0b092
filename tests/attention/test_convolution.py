"""The short convolution: its formula, its past, and what it remembers between steps."""

import math

import pytest
import torch
from torch import Tensor

from attnlab.attention.convolution import ShortConv
from attnlab.errors import UsageError

CHANNELS = 5
CUTS = [[7], [1] * 7, [2, 1, 4], [6, 1]]


def conv(width: int) -> ShortConv:
    torch.manual_seed(0)
    return ShortConv(CHANNELS, width).double()


def tokens(n: int = 7) -> Tensor:
    return torch.randn(2, n, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("width", [2, 3, 4, 9])  # 9: longer than the text
def test_it_is_its_formula(width: int) -> None:
    layer, y = conv(width), tokens()
    found, _ = layer(y, None)
    for t in range(7):
        # The last weight of a channel belongs to the token itself, the one before to its predecessor ...
        mixed = sum((layer.weight[:, width - 1 - i] * y[:, t - i] for i in range(min(width, t + 1))), torch.zeros(()))
        torch.testing.assert_close(found[:, t], mixed / (1 + (-mixed).exp()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [2, 4])
def test_reach(width: int) -> None:
    """A token reaches itself and the width minus 1 after it."""
    layer, y = conv(width), tokens()
    changed = y.clone()
    changed[:, 2] += 1
    touched = ~(layer(y, None)[0] == layer(changed, None)[0]).all(dim=-1).all(dim=0)
    assert touched.nonzero().flatten().tolist() == list(range(2, min(2 + width, 7)))


def test_channels_do_not_mix() -> None:
    layer, y = conv(3), tokens()
    changed = y.clone()
    changed[..., 1] += 1
    same = (layer(y, None)[0] == layer(changed, None)[0]).all(dim=1).all(dim=0)
    assert same.tolist() == [True, False, True, True, True]


@pytest.mark.parametrize("width", [2, 3, 4, 9])
@pytest.mark.parametrize("cuts", CUTS)
def test_cutting_a_text_changes_nothing(width: int, cuts: list[int]) -> None:
    layer, y = conv(width), tokens()
    whole, last = layer(y, None)
    tail, out = layer.empty(2), []
    for part in y.split(cuts, dim=1):
        mixed, tail = layer(part, tail)
        assert tail.shape == (2, width - 1, CHANNELS)
        out.append(mixed)
    torch.testing.assert_close(torch.cat(out, dim=1), whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(tail, last)


def test_tail() -> None:
    """The tail is the last inputs with zeros before the first."""
    layer, y = conv(4), tokens(2)
    assert not layer.empty(2).any()
    assert torch.equal(layer(y, None)[1], torch.cat([torch.zeros(2, 1, CHANNELS, dtype=torch.float64), y], dim=1))


def test_a_tail_keeps_no_prompt_alive() -> None:
    tail = conv(4)(tokens(), None)[1]
    assert tail.untyped_storage().nbytes() == tail.nbytes == 2 * 3 * CHANNELS * 8


def test_tail_in_another_type() -> None:
    """A tail in another type is read in that of the tokens."""
    layer, y = conv(3), tokens()
    mixed, tail = layer(y, layer.empty(2).float())
    assert mixed.dtype == tail.dtype == torch.float64
    assert torch.equal(mixed, layer(y, None)[0])


def test_memory_layout() -> None:
    """The result lies channels side by side in memory."""
    assert conv(3)(tokens(), None)[0].is_contiguous()


@pytest.mark.parametrize("width", [2, 3])
def test_gradients(width: int) -> None:
    """Every weight and every input gets its gradient."""
    layer = conv(width)
    y, tail = tokens(4).requires_grad_(), tokens(width - 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda y, tail: layer(y, tail)[0], (y, tail))
    layer(y, tail)[0].sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.all()


@pytest.mark.parametrize("width", [2, 4, 16])
def test_start_values(width: int) -> None:
    """Weights start within 1 over the root of the width."""
    torch.manual_seed(0)
    weight, bound = ShortConv(1000, width).weight.detach(), 1 / math.sqrt(width)
    assert float(weight.abs().max()) <= bound
    # Uniform numbers have a spread of bound / sqrt(3); of 2000 numbers or more it is off by 3 % at most.
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize("width", [1, 0, -2])
def test_width_of_one_is_refused(width: int) -> None:
    """A width that sees no other token is refused."""
    with pytest.raises(UsageError) as error:
        ShortConv(CHANNELS, width)
    assert str(error.value) == (
        f"conv ({width}) must be 0 (none) or at least 2: a width of 1 sees only the token itself"
    )


def test_bfloat16_rounds_once() -> None:
    """In bfloat16 the sum and its silu are not rounded on the way."""
    layer, y = conv(4).to(torch.bfloat16), tokens().to(torch.bfloat16)
    exact = conv(4).to(torch.bfloat16).float()
    assert torch.equal(layer(y, None)[0], exact(y.float(), None)[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact(y, None)[0], layer(y, None)[0])
