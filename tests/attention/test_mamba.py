"""Mamba-2's layer: what stands around its memory."""

import pytest
import torch
import torch.nn.functional as F

from attnlab.attention.decay import StepDecay
from attnlab.attention.mamba import Mamba2Attention
from attnlab.errors import UsageError


def test_formula() -> None:
    """Token by token from the paper's rule, with two groups, a narrow state and wide heads."""
    torch.manual_seed(0)
    layer = Mamba2Attention(12, n_heads=4, n_key_heads=2, head_dim=3, value_dim=5, norm_eps=0.1).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 6, 12, dtype=torch.float64)
    c, b, v = (to(x)[0].unflatten(-1, (n, -1)) for to, n in zip(_maps(layer), (2, 2, 4), strict=True))
    step = F.softplus(layer.decay.to_decay(x)[0] + layer.decay.bias)
    state, rows = torch.zeros(4, 3, 5, dtype=torch.float64), []
    for t in range(6):
        decay = (-layer.decay.log_rate.exp() * step[t]).exp()
        state = state * decay[:, None, None]
        state = state + step[t][:, None, None] * b[t].repeat_interleave(2, 0)[:, :, None] * v[t][:, None]
        o = torch.einsum("hd,hdv->hv", c[t].repeat_interleave(2, 0), state) + layer.skip[:, None] * v[t]
        y = (o.flatten() * F.silu(layer.to_gate(x)[0, t])).unflatten(0, (2, 10))
        y = (y / (y.square().mean(-1, keepdim=True) + 0.1).sqrt()).flatten() * layer.gain
        rows.append(layer.to_out(y))
    torch.testing.assert_close(layer(x)[0], torch.stack(rows), rtol=0, atol=1e-10)


def _maps(layer: Mamba2Attention) -> tuple[torch.nn.Linear, ...]:
    return layer.qkv.to_q, layer.qkv.to_k, layer.qkv.to_v


def test_limits() -> None:
    """Steps are held within limits."""
    sizes = {"d_model": 12, "n_heads": 4, "head_dim": 3}
    x = 9 * torch.randn(1, 50, 12)
    steps = StepDecay(least=0.2, most=0.4, **sizes).steps(x)
    assert steps.min() == 0.2 and steps.max() == 0.4
    with pytest.raises(UsageError, match=r"most \(0.1\) must be greater than least \(0.2\)"):
        StepDecay(least=0.2, most=0.1, **sizes)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"n_key_heads": 3}, r"n_key_heads \(3\) must divide n_heads \(4\)"),
        ({"conv_bias": True}, r"conv_bias \(.rue\) must be false where there is no convolution"),
        ({"gate": None}, "gate"),
    ],
)
def test_refused(options: dict[str, object], problem: str) -> None:
    """What has no meaning is refused by name."""
    with pytest.raises(UsageError, match=problem):
        Mamba2Attention(12, n_heads=4, **options)
