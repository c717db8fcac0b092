"""Multi-head attention and its head-sharing forms: grouped-query and multi-query."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from attnlab.attention.convolution import Canon, ShortConv
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads
from attnlab.attention.output import GatedOutput
from attnlab.attention.projection import QKV
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.options import Count, Natural, OptionError, option


class MultiHeadAttention(GatedOutput, SoftmaxAttention):
    """Several heads look at the sequence at once, each with queries, keys and values of its own, and are joined.

    Rule: o_h = softmax(q_h K_h^T / sqrt(d)) V_h, y = W_o [o_1; ...; o_h]. With fewer key/value heads than query heads,
    head h reads key/value head floor(h * g / h_total): grouped-query attention (arXiv 2305.13245), and with one,
    multi-query attention (arXiv 1911.02150). `conv` > 0 puts a short convolution of that width on q, k and v,
    which with `conv_kind` canon is Canon B of arXiv 2512.17351.

    Source: arXiv 1706.03762.
    """

    documents = asks = True
    hooks = frozenset({"rotate", "bias", "widen"})
    value_dim: Count = option(default=None, null="head_dim", doc="Width of a value in each head.")
    qkv_bias: bool = option(default=False, doc="Whether queries, keys and values have a bias.")
    out_bias: bool = option(default=False, doc="Whether the output has a bias.")
    conv: Natural = option(default=0, doc="Width of a short convolution on queries, keys and values; 0: none.")
    conv_kind: Literal["silu", "canon"] = option(default="silu", doc="silu(conv y), or y + conv y: a Canon layer.")

    def setup(self) -> None:
        super().setup()
        if self.conv_kind == "canon" and not self.conv:
            raise OptionError("conv_kind", self.conv_kind, "needs a convolution: set conv, which is 0")
        kind = Canon if self.conv_kind == "canon" else ShortConv
        self.qkv = QKV(self, bias=self.qkv_bias, conv=self.conv, conv_kind=kind)
        self.build_output(self.n_heads, bias=self.out_bias)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, tail = self.qkv(x, tail, start)
        q, k, carried = self.prepare_qk(q, k, x, start)
        return Heads(q, k, v, tail=tail, carried=carried, asked=self.ask(q, x), gate=self.gate.project(x))

    def empty_tail(self, batch: int) -> Tensor | None:
        return self.qkv.empty_tail(batch)
