"""In which types sums are made."""

import math

import torch

from attnlab.attention.precision import autocasts, full_precision, running_sum

CPU = torch.device("cpu")


def test_running_sum() -> None:
    """Differences of long sums keep the digits that float32 has, where sums in float32 lose half of them."""
    x = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 1e6
    total, exact = running_sum(x, dim=1), math.fsum(x[0, -3:].tolist())
    assert total.dtype == torch.float64
    assert abs(float(total[0, -1] - total[0, -4]) - exact) < 1e-8 * exact
    plain = x.cumsum(dim=1)
    assert abs(float(plain[0, -1] - plain[0, -4]) - exact) > 1e-3 * exact


def test_full_precision() -> None:
    """Inside the block autocast is off, outside it is as it was; where it is off, nothing happens."""
    x = torch.ones(2, 2)
    with full_precision(CPU):
        assert not autocasts(CPU) and (x @ x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert autocasts(CPU) and (x @ x).dtype == torch.bfloat16
        with full_precision(CPU):
            assert not autocasts(CPU) and (x @ x).dtype == torch.float32
        assert autocasts(CPU)
        assert not autocasts(torch.device("meta"))  # costs are counted there, under whatever is at work
