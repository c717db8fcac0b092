"""Layers that use what an earlier layer published: its values, or its keys and values."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Growth, Heads, Shared
from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.gate import Gate
from attnlab.attention.mask import Causal, Mask
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.normalizer import Normalizer, Softmax
from attnlab.attention.softmax import SoftmaxState
from attnlab.errors import UsageError
from attnlab.position import Position


class ValueResidualAttention(MultiHeadAttention):
    """Mixes the first layer's values into those of every later layer: v_l = w v_l + (1 - w) v_1, w learned per layer.

    The first layer publishes its values; w starts at one half. Decoding caches the mixture, so its state is that of
    multi-head attention. All options are those of multi-head attention.

    Source: arXiv 2410.17897. Where we differ: its two shares are learned apart, here they sum to one.
    """

    def __init__(self, d_model: int, *, layer: int = 0, **options: Any) -> None:
        super().__init__(d_model, layer=layer, **options)
        self.reads = ("first values",) if layer else ()
        self.own = nn.Parameter(torch.tensor(0.5)) if layer else None

    def share(self, heads: Heads, shared: Shared) -> Heads:
        if self.own is None:
            shared["first values"] = heads.v
            return heads
        return heads._replace(v=self.own * heads.v + (1 - self.own) * shared.read("first values"))


class CrossLayerAttention(MultiHeadAttention):
    """Only every n-th layer makes keys and values; those between look at the same ones: o_l = attend(q_l, K_m, V_m).

    m is the last layer before l whose number is a multiple of `every`. A layer that reads has queries of its own and
    caches nothing. There is no score chain, since a link may change keys and a reader has none to change.

    Source: Cross-Layer Attention, arXiv 2405.12981.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        d_out: int | None = None,
        every: int = 2,
        position: Callable[..., Position] = Position,
        mask: Callable[[], Mask] = Causal,
        normalizer: Callable[..., Normalizer] = Softmax,
        gate: Callable[..., Gate] = Gate,
        dropout: float = 0.0,
        layer: int = 0,
        n_layers: int = 1,
        context: int = 1024,
    ) -> None:
        if every < 1:
            raise UsageError(f"every ({every}) must be at least 1: each so many layers make keys and values")
        super().__init__(
            d_model,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            d_out=d_out,
            position=position,
            mask=mask,
            normalizer=normalizer,
            gate=gate,
            dropout=dropout,
            layer=layer,
            n_layers=n_layers,
            context=context,
        )
        self.makes = layer % every == 0
        if not self.makes:
            self.reads = ("keys and values",)
            del self.qkv.to_k, self.qkv.to_v

    @property
    def growth(self) -> Growth:  # type: ignore[override]
        return super().growth if self.makes else "constant"

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        if self.makes:
            return super().project(x, start, tail)
        q = self.position.rotate(self.qkv.queries(x), start)
        extra = {} if (gate := self.gate.project(x)) is None else {"gate": gate}
        return Heads(q, q[:, :0], q[:, :0], extra)

    def share(self, heads: Heads, shared: Shared) -> Heads:
        if self.makes:
            shared["keys and values"] = heads.k, heads.v
            return heads
        k, v = shared.read("keys and values")
        return heads._replace(k=k, v=v)

    def init_state(self, batch: int, max_len: int) -> SoftmaxState:
        if self.makes:
            return super().init_state(batch, max_len)
        nothing = self.anchor.new_zeros(batch, 0, 0, 0)
        return SoftmaxState(Cache(nothing, nothing, 0), None)

    def remember(self, heads: Heads, state: SoftmaxState, shared: Shared) -> tuple[KeysValues, Cache]:
        if self.makes:
            at_hand, cache = super().remember(heads, state, shared)
            shared["at hand"] = at_hand
            return at_hand, cache
        at_hand = shared.read("at hand")
        return at_hand, state.cache._replace(seen=state.cache.seen + heads.q.size(2))
