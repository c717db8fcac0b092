"""Attention in bfloat16 on a CPU: torch's kernel forward, and a backward pass made of matrix products."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnlab.attention.heads import per_query_head
from attnlab.attention.signature import with_signature

MOST_NUMBERS = 1 << 22  # of the map that are written out at once on the way back
ROWS = 512  # queries that go back together where a map has more numbers than that


def attend_in_half(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b g s d"],
    v: Float[Tensor, "b g s d"],
    allowed: Bool[Tensor, "#b #h t s"] | None,
    scale: float,
) -> Float[Tensor, "b h t d"]:
    """softmax(q k^T scale) v for bfloat16 on a CPU, with gradients; without a mask causal."""
    q, k, v = (per_query_head(x, q.size(1)).contiguous() for x in (q, k, v))  # else the way back copies them again
    hidden = None if allowed is None else torch.zeros((), dtype=q.dtype).where(allowed, -torch.inf)
    o: Tensor = HalfKernel.apply(q, k, v, hidden, scale)[0]
    return o


class HalfKernel(torch.autograd.Function):
    """softmax(q k^T scale) v in bfloat16, under a mask of 0 and -inf, or on all keys up to the query's own without one.

    torch's kernel multiplies bfloat16 by the processor's own instructions forward, but not on the way back, where it
    takes five times as long as in float32. Here the way back is that of FlashAttention (arXiv 2205.14135) with whole
    products: the map is formed again from q, k and what the kernel keeps, the logarithm of each query's sum of
    exponentials. Scores are rounded after this is taken off them, so that a weight p is off by 2^-9 p |ln p|, however
    large scores are. Each query must see a key. Double differentiation is refused.
    """

    @staticmethod
    @with_signature
    def forward(
        q: Float[Tensor, "b h t d"],
        k: Float[Tensor, "b h s d"],
        v: Float[Tensor, "b h s d"],
        hidden: Float[Tensor, "#b #h t s"] | None,
        scale: float,
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b h t"]]:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        o, log_sums = kernel(q, k, v, 0.0, hidden is None, attn_mask=hidden, scale=scale)
        return o, log_sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, hidden, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, hidden, output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, "b h t d"], _: None) -> tuple[Tensor | None, ...]:
        q, k, v, hidden, log_sums = ctx.saved_tensors
        (b, h, t, d), s = q.shape, k.size(2)
        q_rows, k_rows, v_rows, slopes = (x.reshape(b * h, -1, d) for x in (q, k, v, slope))
        flat = q_rows, k_rows, v_rows, slopes
        shift = log_sums.to(q.dtype).neg_().reshape(b * h, t, 1)
        if causal := hidden is None:
            hidden = torch.full((1, 1, t, s), -torch.inf, dtype=q.dtype).triu_(1)
        if b * h * t * s <= MOST_NUMBERS:
            start = (hidden + shift.view(b, h, t, 1)).flatten(0, 1)
            dq, dk, dv = _way_back(*flat, start, ctx.scale)
        else:
            dq, dk, dv = _in_parts(flat, hidden.expand(b, h, t, s), shift, ctx.scale, causal=causal)
        return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape), None, None


def _way_back(
    q: Float[Tensor, "n t d"],
    k: Float[Tensor, "n s d"],
    v: Float[Tensor, "n s d"],
    slope: Float[Tensor, "n t d"],
    start: Float[Tensor, "n t s"],
    scale: float,
) -> tuple[Float[Tensor, "n t d"], Float[Tensor, "n s d"], Float[Tensor, "n s d"]]:
    """The gradients of queries, keys and values; `start`, which is written over, is what is added to the scores."""
    p = torch.softmax(start.baddbmm_(q, k.mT, alpha=scale), dim=-1)
    dv = torch.bmm(p.mT, slope)
    ds = torch._softmax_backward_data(torch.bmm(slope, v.mT), p, -1, p.dtype)
    dq = torch.baddbmm(q, ds, k, beta=0, alpha=scale)
    dk = torch.baddbmm(k, ds.mT, q, beta=0, alpha=scale)
    return dq, dk, dv


def _in_parts(
    flat: tuple[Float[Tensor, "n t d"], Float[Tensor, "n s d"], Float[Tensor, "n s d"], Float[Tensor, "n t d"]],
    hidden: Float[Tensor, "b h t s"],
    shift: Float[Tensor, "n t 1"],
    scale: float,
    *,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, heads by heads and rows by rows, so that no more than `MOST_NUMBERS` of the map are there at once."""
    q, k, v, slope = flat
    (n, t), s, heads = q.shape[:2], k.size(1), hidden.size(1)
    rows = t if t * s <= MOST_NUMBERS // 4 else ROWS
    some = max(1, MOST_NUMBERS // (rows * s))
    dq, dk, dv = torch.empty_like(q), *(torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
    for first in range(0, n, some):
        here = range(first, min(first + some, n))
        part = slice(here.start, here.stop)
        for top in range(0, t, rows):
            window, keys = slice(top, min(top + rows, t)), slice(0, min(top + rows, t) if causal else s)
            mask = torch.stack([hidden[i // heads, i % heads, window, keys] for i in here])
            ends = (q[part, window], k[part, keys], v[part, keys], slope[part, window])
            dq[part, window], more_k, more_v = _way_back(*ends, mask + shift[part, window], scale)
            dk[part, keys] += more_k
            dv[part, keys] += more_v
    return dq, dk.to(k.dtype), dv.to(v.dtype)
