"""Values that know which token they stand for: a table of the vocabulary beside the projection."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Shared
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.options import Count, OptionError, option


class ValueGate(NamedTuple):
    """How much of its token's row each head adds to its value."""

    gate: Float[Tensor, "b g t 1"]


class ValueEmbeddingAttention(MultiHeadAttention):
    """Adds to each token's values a row of a table of the vocabulary, as much as a gate of each head lets through.

    Rule: v_h = v_h + 3 sigmoid(w_h . x[:channels]) E_h[token]. Every `every`-th layer, counted from the last one, has a
    table of its own, as wide as its values. It takes the model for it, which knows the tokens: a layer by itself is
    multi-head attention. Decoding caches what is added, so its state is that of multi-head attention.

    Source: nanochat and K. Jordan and others, "modded-nanogpt" (2024); after value residual, arXiv 2410.17897. Where we
    differ: tables start as other embeddings do, gates at 3/2; there at the size of values, with gates near it.
    """

    documents = True
    every: Count = option(default=2, doc="Of how many layers one has a table, counted from the last.")
    channels: Count = option(default=12, doc="Channels of the token that its gates look at.")

    def setup(self) -> None:
        super().setup()
        if self.channels > self.d_model:
            raise OptionError("channels", self.channels, f"must be at most d_model ({self.d_model})")
        self.has_table = (self.n_layers - 1 - self.layer) % self.every == 0
        self.to_value_gate: nn.Linear | None = None
        self.table: nn.Embedding | None = None

    def meet_vocabulary(self, size: int) -> None:
        if self.has_table:
            self.to_value_gate = nn.Linear(self.channels, self.n_kv_heads, bias=False)
            self.table = nn.Embedding(size, self.n_kv_heads * self.value_dim)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        heads = super().project(x, start, tail)
        if self.to_value_gate is None:
            return heads
        gate = 3 * self.to_value_gate(x[..., : self.channels]).sigmoid()
        return heads._replace(own=ValueGate(gate.mT[..., None]))

    def share(self, heads: Heads, shared: Shared) -> Heads:
        if self.table is None or shared.ids is None:
            return heads
        rows = split_heads(self.table(shared.ids), self.n_kv_heads)
        return heads._replace(v=heads.v + (heads.own.gate * rows).to(heads.v.dtype), own=None)
