"""Kernels are known by their parameters, and what is no whole memory is left alone."""

import inspect

import pytest
import torch
from torch import Tensor, nn

from attnlab.errors import UsageError
from attnlab.interchange.foreign.memories import Kernel, implied_sum, kernels, relative_error


def retention(query: Tensor, key: Tensor, value: Tensor, decay: float = 0.9) -> tuple[Tensor, None]:
    """Over (batch, positions, heads, width)."""
    t = query.shape[1]
    mask = decay ** (torch.arange(t)[:, None] - torch.arange(t)).clamp_min(0)
    scores = torch.einsum("bthd,bshd->bhts", query, key) * mask.tril()
    return torch.einsum("bhts,bshd->bthd", scores, value), None


def per_channel(key: Tensor, value: Tensor) -> Tensor:
    """Over (batch, positions, channels)."""
    return (key * value).cumsum(1)


def gated_space(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor | None = None) -> Tensor:
    """Over (batch, channels, positions)."""
    states = (x * dt).cumsum(2)
    return states if z is None else states * z


def rotate(q: Tensor, k: Tensor) -> Tensor:
    return q + k


def with_state(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> Tensor:
    """Over (batch, heads, positions, width), with a state as wide as the values."""
    return (q @ k.transpose(-1, -2)).tril() @ v + q @ state


class Layer(nn.Module):
    pass


def test_known_by_parameters() -> None:
    """Functions with keys and values, or a state space, and no others; the values are named."""
    mine = {kernel.name: kernel.values for kernel in kernels(Layer())}
    assert mine == {"retention": "value", "per_channel": "value", "gated_space": "x", "with_state": "v"}


def product(function: object, *args: object, positions: int | None = None, **kwargs: object):  # type: ignore[no-untyped-def]
    kernel = next(kernel for kernel in kernels(Layer()) if kernel.function is function)
    bound = inspect.signature(kernel.function).bind(*args, **kwargs)
    return implied_sum(kernel, bound, kernel.function(*args, **kwargs), positions)


@pytest.mark.parametrize("t", [1, 3, 40])
def test_heads(t: int) -> None:
    """The map of a memory with heads, also where there are as many positions as heads."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, t, 3, 5)
    result = product(retention, q, k, v)
    expected = torch.einsum("thd,shd->hts", q[0], k[0]) * (0.9 ** (torch.arange(t)[:, None] - torch.arange(t))).tril()
    torch.testing.assert_close(result.a, expected)
    assert relative_error(result) < 1e-6


@pytest.mark.parametrize("t", [2, 5, 11])
def test_state_of_fixed_width(t: int) -> None:
    """A kernel that takes values of one width only is asked for as many columns at a time; a state that is not empty is
    no part of a map, and shows in the error."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 3, t, 5)
    result = product(with_state, q, k, v, torch.zeros(1, 3, 5, 5))
    torch.testing.assert_close(result.a, (q @ k.transpose(-1, -2)).tril()[0])
    assert relative_error(result) < 1e-6
    assert relative_error(product(with_state, q, k, v, torch.ones(1, 3, 5, 5))) > 1e-2


def test_channels() -> None:
    """Each channel has its map, over more positions than are probed at once; a gate is no part of it."""
    torch.manual_seed(0)
    key, value = torch.randn(2, 1, 40, 6)
    result = product(per_channel, key, value)
    torch.testing.assert_close(result.a, key[0].T[:, None].expand(6, 40, 40).tril())
    x, dt, z = torch.randn(3, 1, 6, 40)
    gated = product(gated_space, x, dt, x, x, x, z=z)
    torch.testing.assert_close(gated.a, dt[0][:, None].expand(6, 40, 40).tril())
    assert relative_error(result) < 1e-6 and relative_error(gated) < 1e-6


def test_refused() -> None:
    """Hundreds of channels are not drawn, other shapes not understood, and a step of a sequence is not a memory."""
    many = torch.randn(1, 8, 300)
    with pytest.raises(UsageError, match="each of its 300 channels has a map of its own"):
        product(per_channel, many, many)
    batch = torch.randn(2, 8, 3)
    with pytest.raises(UsageError, match=r"per_channel takes values of shape \(2, 8, 3\)"):
        product(per_channel, batch, batch)
    few = torch.randn(1, 1, 3, 5)
    assert product(retention, few, few, few, positions=20) is None
    assert isinstance(next(kernels(Layer())), Kernel)
