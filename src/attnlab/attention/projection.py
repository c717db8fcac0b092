"""Queries, keys and values from the token stream."""

import torch
from torch import Tensor, nn

from attnlab.attention.base import HeadedAttention
from attnlab.attention.convolution import ShortConv
from attnlab.attention.documents import Start
from attnlab.attention.heads import split_heads


class QKV(nn.Module):
    """Queries, keys and values by three linear maps, then an optional short convolution over all of them.

    Three matrices rather than one: variants that share one start it from the same numbers, and one product over all
    three was not measurably faster.
    """

    def __init__(
        self,
        layer: HeadedAttention,
        *,
        heads: tuple[int, int, int] | None = None,
        bias: bool = False,
        conv: int = 0,
        conv_bias: bool = False,
    ) -> None:
        """`heads`: how many of queries, of keys and of values, where keys and values are not equally many."""
        super().__init__()
        self.heads = heads or (layer.n_heads, layer.n_kv_heads, layer.n_kv_heads)
        sizes = (layer.head_dim, layer.head_dim, layer.value_dim)
        widths = tuple(n * size for n, size in zip(self.heads, sizes, strict=True))
        self.to_q, self.to_k, self.to_v = (nn.Linear(layer.d_model, width, bias=bias) for width in widths)
        self.widths = widths
        self.conv = ShortConv(sum(widths), conv, bias=conv_bias) if conv else None

    def forward(self, x: Tensor, tail: Tensor | None, start: Start = 0) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(b, t, c) -> q (b, h, t, d), k (b, g, t, d), v (b, g, t, v), and the next tail of the convolution;
        at `start` stand documents where each is convolved alone."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        if self.conv is not None:
            mixed, tail = self.conv(torch.cat([q, k, v], dim=-1), tail, start)
            kind, (q, k, v) = v.dtype, mixed.split(self.widths, dim=-1)
            v = v.to(kind)
        q, k, v = (split_heads(y, n) for y, n in zip((q, k, v), self.heads, strict=True))
        return q, k, v, tail

    def queries(self, x: Tensor) -> Tensor:
        """(b, t, c) -> q (b, h, t, d) alone, for a layer that looks at another's keys and values."""
        return split_heads(self.to_q(x), self.heads[0])

    def empty_tail(self, batch: int) -> Tensor | None:
        """What the convolution remembers before the first token; None without one."""
        return None if self.conv is None else self.conv.empty(batch)
