"""Queries, keys and values: three matrices, split into heads, mixed with the tokens just before if asked."""

import pytest
import torch
import torch.nn.functional as F
from tests.attention.plain_layers import Mean, draw

from attnlab.attention.projection import QKV

LAYER = Mean(6, n_heads=4, n_kv_heads=2, head_dim=3, value_dim=5)


def test_heads() -> None:
    """Head h of what is asked lies in rows h d to (h + 1) d of its matrix, and keys and values have heads of theirs."""
    qkv, x = QKV(LAYER, bias=True).double(), draw(2, 7, 6)
    q, k, v, tail = qkv(x, None)
    assert (q.shape, k.shape, v.shape, tail) == ((2, 4, 7, 3), (2, 2, 7, 3), (2, 2, 7, 5), None)
    for y, line, width in ((q, qkv.to_q, 3), (k, qkv.to_k, 3), (v, qkv.to_v, 5)):
        for h in range(y.size(1)):
            rows = slice(h * width, (h + 1) * width)
            torch.testing.assert_close(y[:, h], x @ line.weight[rows].T + line.bias[rows])
    torch.testing.assert_close(qkv.queries(x), q)
    assert qkv.empty_tail(2) is None


@pytest.mark.parametrize("cut", [1, 4])
def test_convolution(cut: int) -> None:
    """Every channel of all three sees the tokens just before, across a cut, too."""
    qkv, x = QKV(LAYER, conv=3).double(), draw(2, 7, 6)
    assert qkv.conv is not None
    whole = qkv(x, qkv.empty_tail(2))
    y = F.pad(torch.cat([line(x) for line in (qkv.to_q, qkv.to_k, qkv.to_v)], dim=-1), (0, 0, 2, 0))
    mixed = F.silu(sum(y[:, i : i + 7] * qkv.conv.weight[:, i] for i in range(3)))
    torch.testing.assert_close(torch.cat([part.transpose(1, 2).flatten(2) for part in whole[:3]], dim=-1), mixed)
    first = qkv(x[:, :cut], qkv.empty_tail(2))
    then = qkv(x[:, cut:], first[3])
    for part, a, b in zip(whole[:3], first[:3], then[:3], strict=True):
        torch.testing.assert_close(torch.cat([a, b], dim=2), part)


@pytest.mark.parametrize("bias", [False, True])
def test_one_product(bias: bool) -> None:
    """With gradients one product serves all three, and gives what they give one by one: outputs and gradients."""
    qkv, x = QKV(LAYER, bias=bias).double(), draw(2, 7, 6)
    called: list[object] = []

    def gradients() -> list[torch.Tensor]:
        outputs = qkv(x, None)[:3]
        loss = torch.stack([y.square().sum() for y in outputs]).sum()
        return [*outputs, *torch.autograd.grad(loss, list(qkv.parameters()))]

    at_once = gradients()
    handles = [to.register_forward_hook(lambda *_: called.append(1)) for to in (qkv.to_q, qkv.to_k, qkv.to_v)]
    one_by_one = gradients()
    assert len(called) == 3  # whoever watches a map is called
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        one_by_one[:3] = qkv(x, None)[:3]
    for a, b in zip(at_once, one_by_one, strict=True):
        torch.testing.assert_close(a, b)


def test_replaced() -> None:
    """What somebody puts in the place of a map is called, so that nothing of an adapter is passed by."""

    class Twice(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    qkv, x = QKV(LAYER).double(), draw(2, 7, 6)
    before = qkv(x, None)[0]
    other = Twice(6, 12, bias=False).double()
    other.load_state_dict(qkv.to_q.state_dict())
    qkv.to_q = other
    torch.testing.assert_close(qkv(x, None)[0], 2 * before)
