"""Layers that use what an earlier layer published: its values, or its keys and values."""

from abc import ABC
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.published import ALIKE, Starts
from attnlab.attention.shared import FirstValues, Shared
from attnlab.attention.softmax import SoftmaxAttention, SoftmaxState
from attnlab.options import Count, option


class SharedKV(NamedTuple):
    """The keys and values of new tokens of a layer that makes some, and what it holds while decoding."""

    k: Float[Tensor, "b g s d"]
    v: Float[Tensor, "b g s v"]
    cache: KeysValues | None = None


class SharesKeysValues(SoftmaxAttention, ABC):
    """Publishes the keys and values it makes, or reads those of the last layer that published such a `record`."""

    makes: bool  # both are settled in `setup`
    record: type[SharedKV] = SharedKV

    def become_reader(self) -> None:
        """What a layer without keys and values of its own says of itself: it caches nothing."""
        self.traits = replace(self.traits, growth="constant", requires=(self.record,))

    def share(self, heads: Heads, shared: Shared) -> Heads:
        if self.makes:
            shared.publish(self.record(heads.k, heads.v))
            return heads
        k, v, _ = shared.read(self.record)
        return heads._replace(k=k, v=v)

    def init_state(self, batch: int, max_len: int) -> SoftmaxState:
        if self.makes:
            return super().init_state(batch, max_len)
        nothing = self.anchor.new_zeros(batch, 0, 0, 0)
        return SoftmaxState(Cache(nothing, nothing, 0), None)

    def update_cache(self, heads: Heads, state: SoftmaxState, shared: Shared) -> tuple[KeysValues, Cache]:
        if self.makes:
            visible_kv, cache = super().update_cache(heads, state, shared)
            shared.publish(self.record(heads.k, heads.v, visible_kv))
            return visible_kv, cache
        visible = shared.read(self.record).cache
        assert visible is not None
        return visible, state.cache._replace(length=state.cache.length + heads.q.size(2))


class ValueResidualAttention(MultiHeadAttention):
    """Mixes the first layer's values into those of every later layer.

    Rule: v_l = w v_l + (1 - w) v_1, w learned per layer. The first layer publishes its values; w starts at one half.
    Decoding caches the mixture, so its state is that of multi-head attention. All options are those of multi-head
    attention.

    Source: arXiv 2410.17897. Where we differ: its two shares are learned apart, here they sum to one.
    """

    documents = True
    published: ClassVar[Starts] = {"own": ALIKE}

    def setup(self) -> None:
        super().setup()
        self.traits = replace(self.traits, requires=(FirstValues,) if self.layer else ())
        self.own = nn.Parameter(torch.tensor(0.5)) if self.layer else None

    def share(self, heads: Heads, shared: Shared) -> Heads:
        if self.own is None:
            shared.publish(FirstValues(heads.v))
            return heads
        return heads._replace(v=self.own * heads.v + (1 - self.own) * shared.read(FirstValues).v)


class CrossLayerAttention(SharesKeysValues, MultiHeadAttention):
    """Only every n-th layer makes keys and values; those between look at the same ones.

    Rule: o_l = attend(q_l, K_m, V_m), m the last layer that makes keys. That is the last one whose number is a multiple
    of `every`. A layer that reads has queries of its own and caches nothing. It takes no `score`, since a modifier may
    change keys and a reader has none to change.

    Source: Cross-Layer Attention, arXiv 2405.12981.
    """

    documents = True
    withdrawn = {"qkv_bias", "out_bias", "conv", "conv_kind", "score"}
    every: Count = option(default=2, doc="Of how many layers one makes keys and values.")

    def setup(self) -> None:
        super().setup()
        self.makes = self.layer % self.every == 0
        if not self.makes:
            self.become_reader()
            del self.qkv.to_k, self.qkv.to_v

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        if self.makes:
            return super().project(x, start, tail)
        q = self.position.rotate(self.qkv.queries(x), start)
        return Heads(q, q[:, :0], q[:, :0], gate=self.gate.project(x))
