"""The softmax family: project -> score -> normalise -> mix -> merge, with a slot for every choice."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attnlab.attention.base import Shared
from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, per_query_head
from attnlab.attention.masked import MaskedAttention
from attnlab.attention.normalizer import Normalizer, Softmax
from attnlab.attention.score import Score
from attnlab.attention.score_chain import check_chain, of_each
from attnlab.attention.score_context import ScoreContext
from attnlab.attention.traits import Traits
from attnlab.options import slot


class SoftmaxState(NamedTuple):
    """What `step` keeps: the cache, and the tail of the short convolution (None without one)."""

    cache: Cache
    tail: Tensor | None


class SoftmaxAttention(MaskedAttention):
    """Each query weighs the visible keys by how well they match it: o_i = sum_j normalise(q_i . k_j * scale) v_j.

    Slots: `position` (rotate or bias), `mask` (who is visible), `score` (modifiers of the scores),
    `normalizer` (scores to weights). A subclass writes `project` and `merge`. Where every slot allows it the fused
    kernel serves; the result is the same either way, which is a law.

    Source: arXiv 1706.03762.
    """

    withdrawn = {"value_dim"}
    score: dict[str, Score] = slot(default={}, doc="Modifiers of the scores, by name.")
    normalizer: Normalizer = slot(default=Softmax, doc="How scores become weights.")

    seams = (*MaskedAttention.seams, "visible", "content_mask", "scores", "explicit_weights")
    hooks = frozenset({"rotate", "bias"})
    asks = False  # True where `project` makes what queries bring along for score modifiers, see `ask`
    fusable = True  # False where a subclass changes what the fused kernel computes, which then is never asked

    def setup(self) -> None:
        super().setup()
        sizes = {"n_heads": self.n_heads, "n_kv_heads": self.n_kv_heads, "head_dim": self.head_dim}
        self.key_dim = self.position.rotated_dim(self.head_dim)
        sizes |= {"key_dim": self.key_dim} if self.key_dim != self.head_dim else {}
        built = self.build("score", d_model=self.d_model, **sizes)
        mods: list[Score] = sorted(built.values(), key=lambda mod: mod.order)
        self.add_module("score", nn.ModuleList(mods))
        self.normalizer = self.build("normalizer", n_heads=self.n_heads)
        check_chain(mods, asks=self.asks, layer=type(self).__name__)
        self.scale = next((mod.scale for mod in mods if mod.scale is not None), self.head_dim**-0.5)
        self.fused = self.fusable and self.normalizer.fusable and all(mod.fusable for mod in self.score_mods)
        self.reads_between = any(mod.needs_all for mod in self.score_mods)
        for mod in self.score_mods:
            mod.check(self.mask, self.normalizer)
        self.cached_extras = sum(mod.cached_extras for mod in self.score_mods)
        self.traits = Traits(
            map_kind=next((mod.map_kind for mod in self.score_mods if mod.map_kind), self.normalizer.map_kind),
            growth="linear" if self.mask.cache_size is None else "window",
            causal=self.mask.causal,
            discontinuous=self.normalizer.discontinuous,
        )

    @property
    def score_mods(self) -> list[Score]:
        """The score modifiers, in the order in which they act."""
        return list(self.score)  # type: ignore[arg-type]

    def explicit_weights(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Float[Tensor, "b h t s"]:
        """The weights that `attend_explicitly` gives to the values, before dropout; in float32 at least."""
        visible, chosen = self.visible(q_pos, k_pos), self.content_mask(heads, q_pos, k_pos)
        visible = visible if chosen is None else visible & chosen
        weights = self.normalizer(self.scores(heads, q_pos, k_pos, visible), visible)
        if any(type(mod).apply_weights is not Score.apply_weights for mod in self.score_mods):
            for mod, ctx, carried in self.looks(heads, q_pos, k_pos, visible):
                weights = mod.apply_weights(weights, ctx, carried)
        return weights

    def scores(
        self,
        heads: Heads,
        q_pos: Int[Tensor, " t"],
        k_pos: Int[Tensor, " s"],
        visible: Bool[Tensor, "*b t s"],
    ) -> Float[Tensor, "b h t s"]:
        """Scaled scores after their modifiers and the position bias, before masking; in float32 at least."""
        work = torch.promote_types(heads.q.dtype, torch.float32)
        scores = (heads.q @ self.keys(heads).mT).to(work) * self.scale
        for mod, ctx, carried in self.looks(heads, q_pos, k_pos, visible):
            scores = mod.apply_scores(scores, ctx, carried)
        bias = self.position.bias(q_pos, k_pos)
        return scores if bias is None else scores + bias.to(work)

    def keys(self, heads: Heads) -> Float[Tensor, "b h s d"]:
        """The keys that each query head reads."""
        return per_query_head(heads.k, self.n_heads).to(heads.q.dtype)

    def looks(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"], visible: Bool[Tensor, "*b t s"]
    ) -> Iterator[tuple[Score, ScoreContext, Float[Tensor, "b h s e"] | None]]:
        """Each score modifier, what it may look at, and what the keys carry along for it."""
        if not self.score_mods:
            return
        ctx = ScoreContext(heads.q, self.keys(heads), q_pos, k_pos, visible, self.scale)
        carried, asked = self.carried(heads), self.asked(heads)
        for mod in self.score_mods:
            yield mod, ctx._replace(asked=asked.get(mod)), carried.get(mod)

    def carried(self, heads: Heads) -> dict[Score, Float[Tensor, "b h s e"]]:
        """What the keys carry along for each score modifier."""
        return of_each(heads.carried, {mod: mod.cached_extras for mod in self.score_mods})

    def asked(self, heads: Heads) -> dict[Score, Float[Tensor, "b h t e"]]:
        """What the queries bring along for each score modifier."""
        return of_each(heads.asked, {mod: mod.query_extras for mod in self.score_mods})

    def ask(self, q: Float[Tensor, "b h t d"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t e"] | None:
        """What each query brings along for the score modifiers."""
        asked = [mod.make_query_extras(q, x) for mod in self.score_mods if mod.query_extras]
        return torch.cat(asked, dim=-1) if asked else None

    def prepare_qk(self, q: Tensor, k: Tensor, x: Tensor, start: Start) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries and keys, prepared by score modifiers and rotated by position, and what keys carry along."""
        for mod in self.score_mods:
            q, k = mod.prepare(q, k, x)
        q, k = self.position.rotate(q, start), self.position.rotate_keys(k, start)
        for mod in self.score_mods:
            q, k = mod.prepare_rotated(q, k)
        carried = [mod.make_extras(q, k, x) for mod in self.score_mods if mod.cached_extras]
        return q, k, torch.cat(carried, dim=-1) if carried else None

    def content_mask(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Bool[Tensor, "b h t s"] | None:
        """Which of the visible keys a rule that looks at the contents leaves, None for all; with `fusable` False."""
        return None

    def init_state(self, batch: int, max_len: int) -> SoftmaxState:
        cache = Cache.empty(
            self.mask,
            batch=batch,
            max_len=max_len,
            heads=self.n_kv_heads,
            d=self.key_width,
            v=self.value_dim,
            like=self.anchor,
        )
        return SoftmaxState(cache, self.empty_tail(batch))

    @property
    def key_width(self) -> int:
        """Numbers cached per token and key head: the key, and what it carries along for each query head it serves."""
        return self.key_dim + self.cached_extras * (self.n_heads // self.n_kv_heads)

    def empty_tail(self, batch: int) -> Tensor | None:
        """What a short convolution remembers before the first token; None without one."""
        return None

    def update_cache(self, heads: Heads, state: SoftmaxState, shared: Shared) -> tuple[KeysValues, Cache]:
        """Cache the new keys and values, and say which ones are visible; a layer that reads another's caches none."""
        rows = heads.k
        if heads.carried is not None:  # (b, h, n, e) -> (b, g, n, h / g * e), beside the key that it belongs to
            carried = heads.carried.unflatten(1, (self.n_kv_heads, -1)).transpose(2, 3).flatten(3)
            rows = torch.cat([rows, carried.to(rows.dtype)], dim=-1)
        return state.cache.append(rows, heads.v, self.mask)

    def step(
        self, x: Float[Tensor, "b n c"], state: SoftmaxState, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], SoftmaxState]:
        shared = Shared() if shared is None else shared
        start = state.cache.length
        heads = self.share(self.project(x, start, state.tail), shared)
        visible_kv, cache = self.update_cache(heads, state, shared)
        q_pos = torch.arange(start, start + x.size(1), device=x.device)
        o = self.attend(self.read_cache(heads, visible_kv), q_pos, visible_kv.pos)
        return self.merge(o, heads), SoftmaxState(cache, heads.tail)

    def read_cache(self, heads: Heads, visible_kv: KeysValues) -> Heads:
        """The new queries beside the visible keys and values, and what these carry."""
        k, carried = visible_kv.k.to(heads.q.dtype), None
        if self.cached_extras:
            k, rest = k.split([self.key_dim, k.size(-1) - self.key_dim], dim=-1)
            carried = rest.unflatten(-1, (-1, self.cached_extras)).transpose(2, 3).flatten(1, 2)
        return heads._replace(k=k, v=visible_kv.v.to(heads.v.dtype), carried=carried)

    def pairs(self, seq_len: int) -> int | None:
        k_pos = torch.arange(seq_len)
        return sum(int(self.mask.visible(rows, k_pos).sum()) for rows in k_pos.split(1024))
