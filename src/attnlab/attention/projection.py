"""Queries, keys and values from the token stream."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.attention.base import HeadedAttention
from attnlab.attention.convolution import ShortConv
from attnlab.attention.documents import Start
from attnlab.attention.heads import split_heads


class QKV(nn.Module):
    """Queries, keys and values by three linear maps, then an optional short convolution over all of them.

    Three matrices rather than one, for variants that share one start it from the same numbers; training multiplies by
    all three at once.
    """

    def __init__(
        self,
        layer: HeadedAttention,
        *,
        heads: tuple[int, int, int] | None = None,
        bias: bool = False,
        conv: int = 0,
        conv_bias: bool = False,
        conv_kind: type[ShortConv] = ShortConv,
    ) -> None:
        """`heads`: how many of queries, of keys and of values, where keys and values are not equally many."""
        super().__init__()
        self.heads = heads or (layer.n_heads, layer.n_kv_heads, layer.n_kv_heads)
        sizes = (layer.head_dim, layer.head_dim, layer.value_dim)
        widths = tuple(n * size for n, size in zip(self.heads, sizes, strict=True))
        self.to_q, self.to_k, self.to_v = (nn.Linear(layer.d_model, width, bias=bias) for width in widths)
        self.widths = widths
        self.conv = conv_kind(sum(widths), conv, bias=conv_bias) if conv else None

    def forward(self, x: Tensor, tail: Tensor | None, start: Start = 0) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(b, t, c) -> q (b, h, t, d), k (b, g, t, d), v (b, g, t, v), and the next tail of the convolution;
        at `start` stand documents where each is convolved alone."""
        parts = self._products(x)
        if self.conv is not None:
            dtype = parts[-1].dtype
            mixed, tail = self.conv(torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0], tail, start)
            q, k, v = mixed.split(self.widths, dim=-1)
            parts = (q, k, v.to(dtype))
        elif len(parts) == 1:
            parts = parts[0].split(self.widths, dim=-1)
        q, k, v = (split_heads(y, n) for y, n in zip(parts, self.heads, strict=True))
        return q, k, v, tail

    def _products(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each of the three maps makes of x. With gradients it is one tensor, of one product: it saves two casts
        of x and the sum of three gradients for a copy of the weights, which a decoded token would not be worth."""
        maps = (self.to_q, self.to_k, self.to_v)
        if not torch.is_grad_enabled() or any(_is_watched(to) for to in maps):
            return tuple(to(x) for to in maps)
        bias = None if self.to_q.bias is None else torch.cat([to.bias for to in maps])
        return (F.linear(x, torch.cat([to.weight for to in maps]), bias),)

    def queries(self, x: Tensor) -> Tensor:
        """(b, t, c) -> q (b, h, t, d) alone, for a layer that looks at another's keys and values."""
        return split_heads(self.to_q(x), self.heads[0])

    def empty_tail(self, batch: int) -> Tensor | None:
        """What the convolution remembers before the first token; None without one."""
        return None if self.conv is None else self.conv.empty(batch)


def _is_watched(to: nn.Linear) -> bool:
    """Whether somebody hooks the map, or has put something of their own in its place: then it must be called."""
    return type(to) is not nn.Linear or bool(to._forward_hooks or to._forward_pre_hooks)
