"""Multi-head attention and its head-sharing forms: grouped-query and multi-query."""

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Heads, join_heads, per_query_head
from attnlab.attention.gate import Gate
from attnlab.attention.mask import Causal, Mask
from attnlab.attention.normalizer import Normalizer, Softmax
from attnlab.attention.projection import QKV
from attnlab.attention.score import Score
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.position import Position


class MultiHeadAttention(SoftmaxAttention):
    """Several heads look at the sequence at once, each with queries, keys and values of its own, and are joined.

    y = W_o [o_1; ...; o_h], o_h = softmax(q_h K_h^T / sqrt(d)) V_h. With fewer key/value heads than query heads,
    head h reads key/value head floor(h * g / h_total): grouped-query attention (arXiv 2305.13245), and with one,
    multi-query attention (arXiv 1911.02150). `conv` > 0 puts a short convolution of that width on q, k and v.

    Source: arXiv 1706.03762.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        d_out: int | None = None,
        qkv_bias: bool = False,
        out_bias: bool = False,
        conv: int = 0,
        position: Callable[..., Position] = Position,
        mask: Callable[[], Mask] = Causal,
        score: Mapping[str, Callable[..., Score]] | None = None,
        normalizer: Callable[..., Normalizer] = Softmax,
        gate: Callable[..., Gate] = Gate,
        dropout: float = 0.0,
        layer: int = 0,
        n_layers: int = 1,
        context: int = 1024,
    ) -> None:
        super().__init__(
            d_model,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            d_out=d_out,
            position=position,
            mask=mask,
            score=score,
            normalizer=normalizer,
            dropout=dropout,
            layer=layer,
            n_layers=n_layers,
            context=context,
        )
        self.qkv = QKV(self, bias=qkv_bias, conv=conv)
        self.gate = gate(d_model=d_model, n_heads=n_heads, value_dim=self.value_dim)
        self.to_out = nn.Linear(n_heads * self.value_dim, self.d_out, bias=out_bias)

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, extra = self.qkv(x, tail)
        q, k = self.prepared(q, k, x, start, extra)
        if (gate := self.gate.project(x)) is not None:
            extra["gate"] = gate
        return Heads(q, k, v, extra)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        v = per_query_head(heads.v, self.n_heads)
        return self.to_out(join_heads(self.gate(o, heads.extra.get("gate"), v)))

    def empty_tail(self, batch: int) -> Tensor | None:
        return self.qkv.empty_tail(batch)
