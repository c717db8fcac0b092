"""Attention in bfloat16 on a CPU: outputs and gradients against float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.attention import half_kernel
from attnlab.attention.half_kernel import attend_in_half
from attnlab.attention.mask import Window
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.position import NoPE, Position
from attnlab.attention.position_bias import ALiBi

# As a share of all numbers of a gradient. Rounding each factor of a product of bfloat16 costs 2^-9 (.002); torch's own
# kernel is off by .003 to .008 here.
OFF = 0.01


def heads(t: int, *, size: float = 1.0, groups: int = 4) -> list[Tensor]:
    """Queries, keys and values; keys share a direction with all queries, so that scores lie far from 0."""
    draw = torch.Generator().manual_seed(t)
    q, k, v = (torch.randn(2, n, t, 16, generator=draw) for n in (4, groups, groups))
    return [x.bfloat16() for x in (q * size + size, k * size + size, v)]


def gradients(kernel: Any, parts: list[Tensor], slope: Tensor) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in parts]
    o = kernel(*leaves)
    return [o.detach(), *torch.autograd.grad(o, leaves, slope.to(o.dtype))]


def off(parts: list[Tensor], allowed: Tensor | None = None) -> list[float]:
    """By how much the output and each gradient differ from those of float64."""
    slope = torch.randn(parts[0].shape, generator=torch.Generator().manual_seed(0)).bfloat16()

    def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        settings: Any = {"attn_mask": allowed, "is_causal": allowed is None, "enable_gqa": True}
        return F.scaled_dot_product_attention(q, k, v, **settings)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_in_half(q, k, v, allowed, 0.25)

    truths = gradients(exact, [x.double() for x in parts], slope)
    results = gradients(ours, parts, slope)
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(results, truths, strict=True)]


@pytest.mark.parametrize("size", [1.0, 3.0])
@pytest.mark.parametrize("groups", [4, 1])
def test_gradients(size: float, groups: int) -> None:
    """Also where scores lie around 150, at which bfloat16 alone would be off by a half."""
    assert max(off(heads(48, size=size, groups=groups))) < OFF


def test_under_a_mask() -> None:
    pos = torch.arange(48)
    assert max(off(heads(48), Window(window=5).visible(pos, pos)[None, None])) < OFF


@pytest.mark.parametrize("masked", [False, True])
def test_in_parts(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads by heads and rows by rows: of each map no more than what may be there at once."""
    pos, most, way_back = torch.arange(80), [0], half_kernel._way_back

    def watched(*args: Any) -> Any:
        most[0] = max(most[0], args[4].numel())
        return way_back(*args)

    monkeypatch.setattr(half_kernel, "_way_back", watched)
    allowed = Window(window=60).visible(pos, pos)[None, None] if masked else None
    for numbers, rows in ((2 * 80 * 80 * 4, 512), (16 * 80, 16)):
        monkeypatch.setattr(half_kernel, "MOST_NUMBERS", numbers)
        monkeypatch.setattr(half_kernel, "ROWS", rows)
        most[0] = 0
        assert max(off(heads(80), allowed)) < OFF
        assert 0 < most[0] <= numbers


def test_scores_are_rounded_after_the_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, large scores lose the gradients: so the figures above say something."""

    def careless(q: Tensor, k: Tensor, v: Tensor, slope: Tensor, start: Tensor, scale: float) -> Any:
        hidden = torch.zeros_like(start).masked_fill_(start == -torch.inf, -torch.inf)
        p = torch.softmax(torch.bmm(q, k.mT) * scale + hidden, dim=-1)
        ds = torch._softmax_backward_data(torch.bmm(slope, v.mT), p, -1, p.dtype)
        return torch.bmm(ds, k) * scale, torch.bmm(ds.mT, q) * scale, torch.bmm(p.mT, slope)

    monkeypatch.setattr(half_kernel, "_way_back", careless)
    assert max(off(heads(48, size=3.0))) > 4 * OFF


@pytest.mark.parametrize(("position", "kind"), [(NoPE, torch.bfloat16), (ALiBi, torch.float32)])
def test_biases_stay_in_float32(position: type[Position], kind: torch.dtype) -> None:
    """For them torch's kernel serves, whose way back is slow in bfloat16."""
    layer = MultiHeadAttention(16, n_heads=2, position=position).bfloat16()
    layer.kernel_dtype = torch.bfloat16
    assert layer._for_kernel(layer.project(torch.ones(1, 4, 16).bfloat16()))[0].dtype == kind
