"""Queries, keys and values from the token stream."""

import torch
from torch import Tensor, nn

from attnlab.attention.base import HeadedAttention
from attnlab.attention.convolution import ShortConv
from attnlab.attention.heads import split_heads


class QKV(nn.Module):
    """Queries, keys and values by three linear maps, then an optional short convolution over all of them.

    Three matrices rather than one: variants that share one start it from the same numbers, and one product over all
    three was not measurably faster.
    """

    def __init__(self, layer: HeadedAttention, *, bias: bool = False, conv: int = 0) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = layer.n_heads, layer.n_kv_heads
        widths = (layer.n_heads * layer.head_dim, layer.n_kv_heads * layer.head_dim, layer.n_kv_heads * layer.value_dim)
        self.to_q, self.to_k, self.to_v = (nn.Linear(layer.d_model, width, bias=bias) for width in widths)
        self.widths = widths
        self.conv = ShortConv(sum(widths), conv) if conv else None

    def forward(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(b, t, c) -> q (b, h, t, d), k (b, g, t, d), v (b, g, t, v), and the next tail of the convolution."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        if self.conv is not None:
            mixed, tail = self.conv(torch.cat([q, k, v], dim=-1), tail)
            kind, (q, k, v) = v.dtype, mixed.split(self.widths, dim=-1)
            v = v.to(kind)
        return split_heads(q, self.n_heads), split_heads(k, self.n_kv_heads), split_heads(v, self.n_kv_heads), tail

    def queries(self, x: Tensor) -> Tensor:
        """(b, t, c) -> q (b, h, t, d) alone, for a layer that looks at another's keys and values."""
        return split_heads(self.to_q(x), self.n_heads)

    def empty_tail(self, batch: int) -> Tensor | None:
        """What the convolution remembers before the first token; None without one."""
        return None if self.conv is None else self.conv.empty(batch)
