"""Controls: layers that lack one thing attention has, so that an experiment can show what that thing is worth."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Growth, HeadedAttention, Heads, MapKind, join_heads, split_heads
from attnlab.attention.convolution import ShortConv
from attnlab.attention.gate import Gate
from attnlab.attention.mask import Causal, Mask
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.normalizer import Normalizer, Softmax
from attnlab.attention.score import Score
from attnlab.attention.shared import Shared
from attnlab.position import Position


class ValuesOnlyAttention(HeadedAttention):
    """What layers share whose weights ask nothing of the tokens: values, and the projection back to the model."""

    map_kind: MapKind = "probability"
    growth: Growth = "constant"
    learns_recall = False
    reads_positions = False

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        head_dim: int | None = None,
        d_out: int | None = None,
        layer: int = 0,
        n_layers: int = 1,
        context: int = 1024,
    ) -> None:
        super().__init__(d_model, n_heads=n_heads, head_dim=head_dim, d_out=d_out, layer=layer, n_layers=n_layers)
        self.to_v = nn.Linear(d_model, n_heads * self.value_dim, bias=False)
        self.to_out = nn.Linear(n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        v = split_heads(self.to_v(x), self.n_heads)
        return Heads(v, v, v, {})  # nothing is asked of queries and keys

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(o))


class IdentityAttention(ValuesOnlyAttention):
    """Moves nothing between tokens, so that whatever a model still learns comes from each token alone.

    y_i = W_o W_v x_i: the map of every head is the identity. The control of attention experiments such as those of
    arXiv 2506.01115: a task that this layer learns needs no attention. With `conv` above 0 a short convolution over the
    values lets each token see the few before it, and nothing else does: what it learns then, the convolution does.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        head_dim: int | None = None,
        d_out: int | None = None,
        conv: int = 0,
        layer: int = 0,
        n_layers: int = 1,
        context: int = 1024,
    ) -> None:
        super().__init__(d_model, n_heads=n_heads, head_dim=head_dim, d_out=d_out, layer=layer, n_layers=n_layers)
        self.conv = ShortConv(n_heads * self.value_dim, conv) if conv else None
        self.learns_recall = conv > 0  # what stood beside a token is a key to it, where an MLP follows

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        values, extra = self.to_v(x), dict[str, Tensor]()
        if self.conv is not None:
            mixed, extra["tail"] = self.conv(values, tail)
            values = mixed.to(values.dtype)
        v = split_heads(values, self.n_heads)
        return Heads(v, v, v, extra)

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        return heads.v

    def init_state(self, batch: int, max_len: int) -> Tensor | None:
        return None if self.conv is None else self.conv.empty(batch)

    def step(
        self, x: Float[Tensor, "b n c"], state: Tensor | None, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], Tensor | None]:
        heads = self.project(x, tail=state)
        return self.merge(self.mix(heads), heads), heads.extra.get("tail")

    def pairs(self, seq_len: int) -> int | None:
        return seq_len


class UniformState(NamedTuple):
    """What `step` keeps: the sum of the values so far (float32 at least), and how many they are."""

    total: Float[Tensor, "b h 1 v"]
    seen: int


class UniformAttention(ValuesOnlyAttention):
    """Gives every visible token the same weight: attention that moves information without choosing any.

    o_i = (v_0 + ... + v_i) / (i + 1), so that A_ij = 1 / (i + 1) for j <= i. Softmax attention is this where all scores
    are equal, as they nearly are before training. Decoding keeps a running sum.

    Source: arXiv 1805.00631 (average attention, here without its gate and feed-forward layer).
    """

    def averaged(
        self, v: Float[Tensor, "b h n v"], state: UniformState
    ) -> tuple[Float[Tensor, "b h n v"], UniformState]:
        """The averages up to each of n more values, and the sum that goes on."""
        if not v.size(2):
            return v, state
        sums = state.total + v.to(state.total.dtype).cumsum(dim=2)
        count = torch.arange(state.seen + 1, state.seen + v.size(2) + 1, device=v.device, dtype=sums.dtype)
        # A copy: a view of the last sum would keep all of them alive.
        return (sums / count[:, None]).to(v.dtype), UniformState(sums[:, :, -1:].clone(), state.seen + v.size(2))

    def empty(self, batch: int, width: int) -> UniformState:
        """No values yet."""
        dtype = torch.promote_types(self.anchor.dtype, torch.float32)
        return UniformState(self.anchor.new_zeros(batch, self.n_heads, 1, width, dtype=dtype), 0)

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        return self.averaged(heads.v, self.empty(heads.v.size(0), heads.v.size(3)))[0]

    def init_state(self, batch: int, max_len: int) -> UniformState:
        return self.empty(batch, self.value_dim)

    def step(
        self, x: Float[Tensor, "b n c"], state: UniformState, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], UniformState]:
        heads = self.project(x)
        o, state = self.averaged(heads.v, state)
        return self.merge(o, heads), state

    def pairs(self, seq_len: int) -> int | None:
        return seq_len * (seq_len + 1) // 2


class FrozenQKAttention(MultiHeadAttention):
    """Multi-head attention that never learns where to look: queries and keys keep their random projections.

    o = softmax(x W_q (x W_k)^T / sqrt(d)) x W_v with W_q and W_k fixed at their initial values; values and output are
    trained. What it still learns, it learns by what lower layers write. Small initial values (model.init=gpt2) make the
    scores nearly equal, so that it starts close to `uniform`; model.init=fan_in gives scores of unit size.

    Source: arXiv 2506.01115.
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
            qkv_bias=qkv_bias,
            out_bias=out_bias,
            conv=conv,
            position=position,
            mask=mask,
            score=score,
            normalizer=normalizer,
            gate=gate,
            dropout=dropout,
            layer=layer,
            n_layers=n_layers,
            context=context,
        )
        for projection in (self.qkv.to_q, self.qkv.to_k):
            projection.requires_grad_(False)
