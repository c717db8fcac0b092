"""One head with trainable queries, keys and values: the chapter's second and third examples."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from attnlab.attention.base import Heads, join_heads
from attnlab.attention.mask import Causal, Full
from attnlab.attention.projection import QKV
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.position import Position


class SelfAttention(SoftmaxAttention):
    """One head asks with W_q, answers with W_k and hands over W_v: y = softmax(Q K^T / sqrt(d)) V.

    No output projection, so the head is as wide as the output. `causal` False lets a token see later ones, as the
    chapter does at first; a language model needs True. `dropout` drops weights while training.

    Source: S. Raschka, "Build a Large Language Model (From Scratch)", sections 3.4 and 3.5.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_out: int | None = None,
        causal: bool = True,
        qkv_bias: bool = False,
        dropout: float = 0.0,
        position: Callable[..., Position] = Position,
        layer: int = 0,
        n_layers: int = 1,
        context: int = 1024,
    ) -> None:
        super().__init__(
            d_model,
            n_heads=1,
            d_out=d_out,
            mask=Causal if causal else Full,
            dropout=dropout,
            position=position,
            layer=layer,
            n_layers=n_layers,
            context=context,
        )
        self.qkv = QKV(self, bias=qkv_bias, conv=0)

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, extra = self.qkv(x, tail)
        return Heads(self.position.rotate(q, start), self.position.rotate_keys(k, start), v, extra)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return join_heads(o)
