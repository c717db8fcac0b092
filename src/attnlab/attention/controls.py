"""Controls: layers that lack one thing attention has, so that an experiment can show what that thing is worth."""

from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import HeadedAttention
from attnlab.attention.convolution import ShortConv
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads, split_heads
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.scan import chunked
from attnlab.attention.state import StateAttention
from attnlab.attention.traits import Traits
from attnlab.options import option
from attnlab.options.rules import NATURAL


class ValuesOnlyAttention(HeadedAttention):
    """What layers share whose weights ask nothing of the tokens: values, and the projection back to the model."""

    withdrawn = {"n_kv_heads", "value_dim", "position"}
    hooks = frozenset[str]()
    traits = Traits("probability", "constant", can_recall=False, uses_position=False)

    def setup(self) -> None:
        super().setup()
        self.to_v = nn.Linear(self.d_model, self.n_heads * self.value_dim, bias=False)
        self.to_out = nn.Linear(self.n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        v = split_heads(self.to_v(x), self.n_heads)
        return Heads(v, v, v)  # nothing is asked of queries and keys

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(o))


class IdentityAttention(ValuesOnlyAttention, StateAttention):
    """Moves nothing between tokens, so that whatever a model still learns comes from each token alone.

    Rule: y_i = W_o W_v x_i. The map of every head is the identity. The control of attention experiments such as those
    of arXiv 2506.01115: a task that this layer learns needs no attention. With `conv` above 0 a short convolution over
    the values lets each token see the few before it, and nothing else does: what it learns then, the convolution does.
    """

    documents = mixes_rows = True
    # The width as an option, the convolution itself in the layer.
    conv: Annotated[Any, NATURAL] = option(default=0, doc="Width of a short convolution on the values; 0: none.")

    def setup(self) -> None:
        super().setup()
        self.traits = replace(self.traits, can_recall=self.conv > 0)  # what stood beside a token is a key to it
        self.conv = ShortConv(self.n_heads * self.value_dim, self.conv) if self.conv else None

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        values = self.to_v(x)
        if self.conv is not None:
            mixed, tail = self.conv(values, tail, start)
            values = mixed.to(values.dtype)
        v = split_heads(values, self.n_heads)
        return Heads(v, v, v, tail=tail)

    def empty_tail(self, batch: int) -> Tensor | None:
        return None if self.conv is None else self.conv.empty(batch)

    def empty(self, batch: int, value_dim: int) -> None:
        """Nothing is remembered of other tokens."""

    def scan(self, heads: Heads, memory: None, start: int) -> tuple[Float[Tensor, "b h t v"], None]:
        return heads.v, None

    def pairs(self, seq_len: int) -> int | None:
        return seq_len


class UniformAttention(ValuesOnlyAttention, StateAttention):
    """Gives every visible token the same weight: attention that moves information without choosing any.

    Rule: o_i = (v_0 + ... + v_i) / (i + 1). So A_ij is 1 / (i + 1) for j <= i. Softmax attention is this where all
    scores are equal, as they nearly are before training. Decoding keeps a running sum.

    Source: arXiv 1805.00631 (average attention, here without its gate and feed-forward layer).
    """

    documents = mixes_rows = True

    def empty(self, batch: int, value_dim: int) -> Float[Tensor, "b h 1 v"]:
        """The sum of no values."""
        return self.zeros(batch, self.n_heads, 1, value_dim)

    def scan(
        self, heads: Heads, memory: Float[Tensor, "b h 1 v"], start: int
    ) -> tuple[Float[Tensor, "b h n v"], Float[Tensor, "b h 1 v"]]:
        """The averages up to each of n more values, and the sum that goes on."""
        v = heads.v
        if not v.size(2):
            return v, memory
        if heads.documents is not None:
            one = torch.ones_like(v[..., :1], dtype=memory.dtype)
            sums, memory = chunked(one, one, v.to(memory.dtype), None, None, memory, starts=heads.documents.starts)
            return (sums / (1 + heads.documents.positions[:, None, :, None])).to(v.dtype), memory
        sums = memory + v.to(memory.dtype).cumsum(dim=2)
        count = torch.arange(start + 1, start + v.size(2) + 1, device=v.device, dtype=sums.dtype)
        # A copy: a view of the last sum would keep all of them alive.
        return (sums / count[:, None]).to(v.dtype), sums[:, :, -1:].clone()

    def pairs(self, seq_len: int) -> int | None:
        return seq_len * (seq_len + 1) // 2


class FrozenQKAttention(MultiHeadAttention):
    """Multi-head attention that never learns where to look: queries and keys keep their random projections.

    Rule: o = softmax(x W_q (x W_k)^T / sqrt(d)) x W_v. W_q and W_k stay at their initial values; values and output are
    trained. What it still learns, it learns by what lower layers write. Small initial values (model.init=gpt2) make the
    scores nearly equal, so that it starts close to `uniform`; model.init=fan_in gives scores of unit size.

    Source: arXiv 2506.01115.
    """

    def setup(self) -> None:
        super().setup()
        for projection in (self.qkv.to_q, self.qkv.to_k):
            projection.requires_grad_(False)
