"""Neighbouring heads that read each other's keys and values in one softmax."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnlab.attention.base import Shared
from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.softmax import SoftmaxState
from attnlab.options import OptionError


class PairedHeadsAttention(MultiHeadAttention):
    """Lets two neighbouring heads read each other: a query weighs its own head's keys and its partner's in one softmax.

    Rule: o_h = softmax([q_h K_h^T; q_h K_p^T] / sqrt(d)) [V_h; V_p], p the partner of h. The keys of both heads stand
    in one row, token by token, the first head's before the second's, so that the first sees its partner's keys of
    earlier tokens alone. A map shows the two shares of each head one after the other, so that `n_heads` of the layer is
    twice the option; decoding caches each key once.

    Source: K. Jordan and others, "modded-nanogpt" (2026), record 58. Where we differ: both heads of a token stand at
    its position, there the second one half a token later; its code pairs heads h and h + n / 2; the map is written out.
    """

    documents = True
    withdrawn = {"n_kv_heads", "score"}
    hooks = frozenset({"rotate"})
    fusable = False

    def setup(self) -> None:
        super().setup()
        if self.n_heads % 2:
            raise OptionError("n_heads", self.n_heads, "must be even: heads come in pairs")
        self.n_heads = self.n_kv_heads = 2 * self.n_heads
        if self.traits.map_kind == "probability":  # of which a head's own keys have a share
            self.traits = replace(self.traits, map_kind="sub_probability")

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        heads = super().project(x, start, tail)
        return heads._replace(q=heads.q.repeat_interleave(2, dim=1), k=beside(heads.k), v=beside(heads.v))

    def explicit_weights(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Float[Tensor, "b h t s"]:
        work = torch.promote_types(heads.q.dtype, torch.float32)
        scores = (heads.q @ heads.k.to(heads.q.dtype).mT).to(work) * self.scale
        visible = self.visible(q_pos, k_pos)
        earlier = visible & (k_pos < q_pos[:, None])
        pair = torch.stack([visible, earlier, visible, visible]).unflatten(0, (2, 2))  # (head of two, share, t, s)
        shown = pair.permute(0, 2, 3, 1).flatten(2).repeat(self.n_heads // 4, 1, 1)
        rows = scores.unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2).flatten(3)
        weights = self.normalizer(rows, shown).unflatten(-1, (-1, 2))
        return weights.permute(0, 1, 4, 2, 3).flatten(1, 2)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        o = o.unflatten(1, (-1, 2)).sum(dim=2)
        return self.to_out(join_heads(self.gate(o, heads.gate, heads.v[:, ::2])))

    def init_state(self, batch: int, max_len: int) -> SoftmaxState:
        sizes = {"heads": self.n_kv_heads // 2, "d": self.key_width, "v": self.value_dim}
        cache = Cache.empty(self.mask, batch=batch, max_len=max_len, like=self.anchor, **sizes)
        return SoftmaxState(cache, self.empty_tail(batch))

    def update_cache(self, heads: Heads, state: SoftmaxState, shared: Shared) -> tuple[KeysValues, Cache]:
        return super().update_cache(heads._replace(k=heads.k[:, ::2], v=heads.v[:, ::2]), state, shared)

    def read_cache(self, heads: Heads, visible_kv: KeysValues) -> Heads:
        return super().read_cache(heads, visible_kv._replace(k=beside(visible_kv.k), v=beside(visible_kv.v)))


def beside(x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b hh t d"]:
    """Each head's own, and then its partner's."""
    pairs = x.unflatten(1, (-1, 2))
    return torch.stack([pairs, pairs.flip(2)], dim=3).flatten(1, 3)
