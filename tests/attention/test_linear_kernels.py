"""What flash-linear-attention's kernels are given is the layer's rule: layout, scale, gates, by what they document.

The kernels run on a GPU alone. Here each is a loop over tokens as its documentation describes it (fla.ops.*.naive),
which takes what the kernel takes and refuses what it refuses.
"""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.laws.cases import shipped
from torch import Tensor

from attnlab.attention import linear_kernels
from attnlab.attention.base import HeadedAttention
from attnlab.attention.linear_kernels import fla_mix, fla_refusal, load
from attnlab.errors import UsageError
from attnlab.laws.layer_in_stack import layers_in_stack
from attnlab.laws.subject import gap, tokens

KERNELS = {  # the kernel that each variant is given to
    "linear": "chunk_simple_gla",
    "retention": "chunk_simple_gla",
    "lightning": "chunk_simple_gla",
    "mamba2": "chunk_simple_gla",
    "gla": "chunk_gla",
    "delta_net": "chunk_delta_rule",
    "gated_delta": "chunk_gated_delta_rule",
    "delta_product": "chunk_gated_delta_rule",
    "kda": "chunk_kda",
    "rwkv7": "chunk_rwkv7",
}
Kernel = Callable[..., tuple[Tensor, Tensor | None]]


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor | None, scale: float | None
) -> tuple[Tensor, None]:
    """(batch, token, head, width); queries are divided by the root of their width unless a scale is given."""
    assert q.shape == k.shape and v.shape[:3] == q.shape[:3] and all(x.is_contiguous() for x in (q, k, v))
    state, out = q.new_zeros(q.size(0), q.size(2), q.size(3), v.size(3)), []
    for t in range(q.size(1)):
        if g is not None:
            state = state * (g[:, t, :, None, None] if g.ndim == 3 else g[:, t, :, :, None]).exp()
        u = v[:, t]
        if beta is not None:
            u = beta[:, t, :, None] * (u - torch.einsum("bhk,bhkv->bhv", k[:, t], state))
        state = state + k[:, t, :, :, None] * u[:, :, None]
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, t] * (q.size(3) ** -0.5 if scale is None else scale), state))
    return torch.stack(out, dim=1), None


def simple_gla(q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None, scale: float | None = None) -> Any:
    assert g is None or g.shape == q.shape[:3]
    return recurrence(q, k, v, g, None, scale)


def gla(q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float | None = None) -> Any:
    assert g.shape == q.shape
    return recurrence(q, k, v, g, None, scale)


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, scale: float | None = None) -> Any:
    assert beta.shape == q.shape[:3]
    return recurrence(q, k, v, None, beta, scale)


def gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None) -> Any:
    assert g.shape == beta.shape == q.shape[:3]
    return recurrence(q, k, v, g, beta, scale)


def kda(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None) -> Any:
    assert g.shape == q.shape and beta.shape == q.shape[:3]
    return recurrence(q, k, v, g, beta, scale)


def rwkv7(r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> Any:
    """S_t = diag(e^w) S + b (a^T S) + k v^T, of the memory before the token."""
    assert r.shape == w.shape == k.shape == a.shape == b.shape
    state, out = r.new_zeros(r.size(0), r.size(2), r.size(3), v.size(3)), []
    for t in range(r.size(1)):
        met = torch.einsum("bhk,bhkv->bhv", a[:, t], state)
        state = state * w[:, t, :, :, None].exp() + b[:, t, :, :, None] * met[:, :, None]
        state = state + k[:, t, :, :, None] * v[:, t, :, None]
        out.append(torch.einsum("bhk,bhkv->bhv", r[:, t] * scale, state))
    return torch.stack(out, dim=1), None


FAKES: dict[str, Kernel] = {
    "chunk_simple_gla": simple_gla,
    "chunk_gla": gla,
    "chunk_delta_rule": delta_rule,
    "chunk_gated_delta_rule": gated_delta_rule,
    "chunk_kda": kda,
    "chunk_rwkv7": rwkv7,
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_is_given_the_rule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients are those of the layer's own scan, and the kernel is that of the rule."""
    asked: list[str] = []

    def loaded(module: str, kernel: str) -> Kernel:
        asked.append(kernel)
        return FAKES[kernel]

    monkeypatch.setattr(linear_kernels, "load", loaded)
    (placed, *_) = layers_in_stack(shipped(name))
    layer = placed.layer
    assert isinstance(layer, HeadedAttention) and fla_refusal(layer) is None
    x = tokens(2, 21).requires_grad_()
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
    results = []
    for kernel in (None, fla_mix):
        layer.kernel = kernel
        y = layer(x)
        results.append([y, *torch.autograd.grad((y * tokens(2, 21, seed=2)).sum(), leaves)])
    assert asked == [KERNELS[name]]
    for ours, theirs in zip(*results, strict=True):
        assert gap(theirs, ours) < 1e-10


@pytest.mark.parametrize(
    ("name", "reason"),
    [("ttt", "no recurrence that has a kernel"), ("multi_head", "no recurrence")],
)
def test_refused(name: str, reason: str) -> None:
    (placed, *_) = layers_in_stack(shipped(name))
    assert isinstance(placed.layer, HeadedAttention)
    assert reason in str(fla_refusal(placed.layer))


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fla", None)
    with pytest.raises(UsageError, match=r"pip install 'attnlab\[gpu\]'"):
        load("gla", "chunk_gla")
