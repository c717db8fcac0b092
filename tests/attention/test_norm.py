"""The norms' parts against their formulas, and that no type rounds on the way."""

from typing import Any

import pytest
import torch

from attnlab.attention.norm import HEAD_GAIN, HeadNorm, LayerNorm, RMSNorm

OFFSETS = [{"unit_offset": False}, {"unit_offset": True}]


@pytest.mark.parametrize("options", [*OFFSETS, {"gain": False}, {"eps": 0.3}])
@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_formula(kind: Any, options: dict[str, Any]) -> None:
    """x, or x less its mean, over the root of its mean square plus eps, times g or 1 + w."""
    norm, x = kind(6, **options).double(), torch.randn(4, 6, dtype=torch.float64)
    gain = torch.ones(6, dtype=torch.float64)
    if options.get("gain", True):
        norm.weight.data.normal_()
        gain = norm.weight.detach() + options.get("unit_offset", False)
    y = x - x.mean(dim=-1, keepdim=True) if kind is LayerNorm else x
    y = y / (y.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt() * gain
    torch.testing.assert_close(norm(x).detach(), y, rtol=0, atol=1e-12)
    assert options.get("eps", norm.eps) == norm.eps


@pytest.mark.parametrize("options", OFFSETS)
@pytest.mark.parametrize(("kind", "start"), [(RMSNorm, 1.0), (LayerNorm, 1.0), (HeadNorm, HEAD_GAIN)])
def test_start(kind: Any, start: float, options: dict[str, Any]) -> None:
    """What it multiplies by at the start does not depend on how that is stored."""
    norm = kind(6, **options)
    torch.testing.assert_close(norm.weight + options["unit_offset"], torch.full((6,), start))


def test_shift() -> None:
    """LayerNorm's shift starts at 0 and is added last."""
    norm, x = LayerNorm(6, bias=True), torch.randn(4, 6)
    before = norm(x)
    assert not norm.bias.any()
    norm.bias.data.fill_(2.0)
    torch.testing.assert_close(norm(x), before + 2.0)


@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_bfloat16(kind: Any) -> None:
    """Rounded once, at the end."""
    norm, x = kind(64), (3 + torch.randn(4, 64)).bfloat16()
    y = norm.bfloat16()(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, norm.float()(x.float()).bfloat16())
