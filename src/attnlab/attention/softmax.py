"""The softmax family: project -> score -> normalise -> mix -> merge, with a slot for every choice."""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnlab.attention.banded import Blocks
from attnlab.attention.base import HeadedAttention, Heads, Shared, Traits, full_precision
from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.mask import Causal, Mask
from attnlab.attention.normalizer import Normalizer, Softmax
from attnlab.attention.score import Pairs, Score
from attnlab.errors import UsageError
from attnlab.options import Fraction, option, slot

SHARP = 50.0  # scores from which gradients of torch's fused kernel on a CPU are off by a few parts in ten thousand


class SoftmaxState(NamedTuple):
    """What `step` keeps: the cache, and the tail of the short convolution (None without one)."""

    cache: Cache
    tail: Tensor | None


class SoftmaxAttention(HeadedAttention):
    """Each query weighs the visible keys by how well they match it: o_i = sum_j normalise(q_i . k_j * scale) v_j.

    Slots: `position` (rotate or bias), `mask` (who is visible), `score` (a chain of changes to the scores),
    `normalizer` (scores to weights). A subclass writes `project` and `merge`. Where every slot allows it the fused
    kernel serves; the result is the same either way, which is a law.

    Source: arXiv 1706.03762.
    """

    withdrawn = {"value_dim"}
    mask: Mask = slot(default=Causal, doc="Which keys a query may read.")
    score: dict[str, Score] = slot(default={}, doc="Changes to the scores by name, a chain.")
    normalizer: Normalizer = slot(default=Softmax, doc="How scores become weights.")
    dropout: Fraction = option(default=0.0, doc="Share of the weights that is dropped while training.")

    hooks = frozenset({"rotate", "bias"})
    fusable = True  # False where a subclass changes what the fused kernel computes, which then is never asked
    kernel_dtype = torch.float32  # in which the fused kernel trains on a CPU where all around it is bfloat16

    def setup(self) -> None:
        super().setup()
        self.mask = self.build("mask")
        links = self.build("score", d_model=self.d_model, n_heads=self.n_heads, head_dim=self.head_dim)
        chain: list[Score] = sorted(links.values(), key=lambda link: link.order)
        self.add_module("score", nn.ModuleList(chain))
        self.normalizer = self.build("normalizer", n_heads=self.n_heads)
        scales = {type(link).__name__: link.scale for link in self.chain if link.scale is not None}
        if len(scales) > 1:
            names = " and ".join(scales)
            raise UsageError(f"attention/score holds {names}, which both set the scale; keep one of them")
        if len(makers := [type(link).__name__ for link in self.chain if link.makes_scores]) > 1:
            raise UsageError(
                f"attention/score holds {' and '.join(makers)}, which both make the scores; keep one of them"
            )
        self.scale = next(iter(scales.values()), self.head_dim**-0.5)
        self.fused = self.fusable and self.normalizer.fusable and all(link.fusable for link in self.chain)
        for link in self.chain:
            link.check(self.mask, self.normalizer)
        self.carries = sum(link.carries for link in self.chain)
        self.traits = Traits(
            map_kind=next((link.map_kind for link in self.chain if link.map_kind), self.normalizer.map_kind),
            growth="linear" if self.mask.kept is None else "window",
            causal=self.mask.causal,
            jumps=self.normalizer.jumps,
        )
        self._square: dict[tuple[Blocks, torch.device, torch.dtype], Tensor] = {}

    @property
    def chain(self) -> list[Score]:
        """The links of the score chain, in the order in which they act."""
        return list(self.score)  # type: ignore[arg-type]

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        """The whole sequence at once: by the fused kernel where every slot allows it, else explicitly."""
        blocks = Blocks.of(heads.q.size(2), self.mask.band, self.mask.sinks)
        if self.fused and (o := self._mix_fused(heads, blocks)) is not None:
            return o.to(heads.v.dtype)
        if blocks.n_blocks > 1:
            return self._attend_explicitly_in_blocks(heads, blocks)
        pos = torch.arange(heads.q.size(2), device=heads.q.device)
        return self.attend_explicitly(heads, pos, pos)

    def _mix_fused(self, heads: Heads, blocks: Blocks) -> Float[Tensor, "b h t v"] | None:
        q, k, v = self._for_kernel(heads)
        if type(self.mask) is Causal and "bias" not in self.position.hooks:
            return self._kernel(q, k, v, None)
        if blocks.n_blocks == 1:
            return self._kernel(q, k, v, self._kept(q, blocks))
        return self._attend_in_blocks(q, k, v, blocks)

    def attend(self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "b h t v"]:
        """Queries at some positions against keys at others: by the fused kernel where it can be, else explicitly."""
        if self.fused:
            q, k, v = self._for_kernel(heads)
            o = self._kernel(q, k, v, self._allowed(q.dtype, [(q_pos, k_pos)]))
            if o is not None:
                return o.to(heads.v.dtype)
        return self.attend_explicitly(heads, q_pos, k_pos)

    def _for_kernel(self, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
        """In `kernel_dtype` where a CPU trains: on most, the kernel's backward is four times slower in bfloat16."""
        q, k, v, _ = heads
        slow = v.device.type == "cpu" and torch.is_grad_enabled()
        work = torch.promote_types(v.dtype, self.kernel_dtype) if slow else v.dtype
        return q.to(work), k.to(work), v.to(work)

    @torch.compiler.disable  # one kernel call per row, which the compiler could only repeat
    def _attend_in_blocks(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], v: Float[Tensor, "b g t v"], blocks: Blocks
    ) -> Float[Tensor, "b h t v"] | None:
        """Where queries read the latest keys only, memory and time grow with the length, and not with its square."""
        allowed = self._kept(q, blocks)
        # One mask serves all rows of the batch; biases, which differ from head to head, are not copied for each row.
        rows = q.size(0) if allowed.size(1) == 1 else 1
        done = []
        for some_q, some_k, some_v in zip(q.split(rows), k.split(rows), v.split(rows), strict=True):
            o = self._kernel(blocks.queries(some_q), blocks.keys(some_k), blocks.keys(some_v), allowed)
            if o is None:
                return None
            done.append(blocks.joined(o, rows))
        return torch.cat(done)

    def _kernel(
        self,
        q: Float[Tensor, "b h t d"],
        k: Float[Tensor, "b g s d"],
        v: Float[Tensor, "b g s v"],
        allowed: Shaped[Tensor, "#b #h t s"] | None,
    ) -> Float[Tensor, "b h t v"] | None:
        """The fused kernel, under a mask or biases; without either, on all keys up to the query's own.

        None where it would lose the gradients.
        """
        with full_precision(q.device):  # autocast would undo the choice of the type
            o = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=allowed,
                dropout_p=self.dropout if self.training else 0.0,
                is_causal=allowed is None,
                scale=self.scale,
                enable_gqa=self.n_heads != self.n_kv_heads,
            )
        return None if self._beyond_kernel(o) else o

    def _beyond_kernel(self, o: Tensor) -> bool:
        """Whether a CPU's kernel would lose the gradients: on the way back it rounds them in proportion to the scores.

        What it keeps for that pass tells: the logarithm of each query's sum of exponentials is as large as its best
        score. Elsewhere, and in a compiled layer, it is not asked: the question would make an accelerator wait.
        """
        if o.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        logs = getattr(o.grad_fn, "_saved_logsumexp", None)  # nothing without gradients, or where no kernel serves
        if logs is None or not logs.numel():
            return False
        low, high = logs.detach().aminmax()
        return max(float(high), -float(low)) > SHARP

    def attend_explicitly(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Float[Tensor, "b h t v"]:
        """The same rule written out: scores, chain, position bias, normaliser, dropout, weighted sum."""
        if not q_pos.numel():
            return heads.v.new_zeros(*heads.q.shape[:3], heads.v.size(-1))
        weights = F.dropout(self.explicit_weights(heads, q_pos, k_pos), self.dropout, self.training)
        return weights.to(heads.v.dtype) @ heads.v.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)

    @torch.compiler.disable  # its loop over blocks would be written out, for minutes, and anew for each length
    def _attend_explicitly_in_blocks(self, heads: Heads, blocks: Blocks) -> Float[Tensor, "b h t v"]:
        """What decoding block by block would give; the backward pass forms each block's map again, and keeps none."""

        def block(q_pos: Tensor, k_pos: Tensor) -> Tensor:
            extra = heads.extra
            if self.carries:
                extra = extra | {"carried": extra["carried"][:, :, k_pos]}
            q, k, v = heads.q[:, :, q_pos], heads.k[:, :, k_pos], heads.v[:, :, k_pos]
            return self.attend_explicitly(Heads(q, k, v, extra), q_pos, k_pos)

        forget = partial(checkpoint, block, use_reentrant=False) if torch.is_grad_enabled() else block
        return torch.cat([forget(q_pos, k_pos) for q_pos, k_pos in blocks.cuts(heads.q.device)], dim=2)

    def explicit_weights(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Float[Tensor, "b h t s"]:
        """The weights that `attend_explicitly` gives to the values, before dropout; in float32 at least."""
        visible, chosen = self.visible(q_pos, k_pos), self.selected(heads, q_pos, k_pos)
        visible = visible if chosen is None else visible & chosen
        weights = self.normalizer(self.scores(heads, q_pos, k_pos, visible), visible)
        for link in self.chain:
            weights = link.apply_weights(weights)
        return weights

    def scores(
        self,
        heads: Heads,
        q_pos: Int[Tensor, " t"],
        k_pos: Int[Tensor, " s"],
        visible: Bool[Tensor, "*b t s"],
    ) -> Float[Tensor, "b h t s"]:
        """Scaled scores after the chain and the position bias, before masking; in float32 at least."""
        work = torch.promote_types(heads.q.dtype, torch.float32)
        keys = heads.k.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1).to(heads.q.dtype)
        pairs, carried = Pairs(heads.q, keys, q_pos, k_pos, visible, self.scale), self._carried(heads)
        scores = (heads.q @ keys.mT).to(work) * self.scale
        for link in self.chain:
            scores = link.apply_scores(scores, pairs, carried.get(link))
        bias = self.position.bias(q_pos, k_pos)
        return scores if bias is None else scores + bias.to(work)

    def _carried(self, heads: Heads) -> dict[Score, Float[Tensor, "b h s e"]]:
        """What the keys carry along for each link of the chain."""
        links = [link for link in self.chain if link.carries]
        if not links:
            return {}
        parts = heads.extra["carried"][..., : self.carries].split([link.carries for link in links], dim=-1)
        return dict(zip(links, parts, strict=True))

    def prepared(self, q: Tensor, k: Tensor, x: Tensor, start: int, extra: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Queries and keys after the chain's preparation and the position's rotation; notes what keys carry along."""
        for link in self.chain:
            q, k = link.prepare(q, k, x)
        q, k = self.position.rotate(q, start), self.position.rotate_keys(k, start)
        if carried := [link.carry(q, k, x) for link in self.chain if link.carries]:
            extra["carried"] = torch.cat(carried, dim=-1)
        return q, k

    def selected(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Bool[Tensor, "b h t s"] | None:
        """Which of the visible keys a rule that looks at the contents leaves, None for all; with `fusable` False."""
        return None

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        """Which keys each query may read; empty slots (position -1) never."""
        return self.mask.visible(q_pos, k_pos) & (k_pos >= 0)

    @torch.compiler.disable  # what is kept lies outside the compiled code
    def _kept(self, like: Tensor, blocks: Blocks) -> Shaped[Tensor, " blocks #h t s"]:
        """`_allowed` of a whole sequence, kept for the next one of this length unless the position learns."""
        cuts = blocks.positions(like.device)
        if any(True for _ in self.position.parameters()):
            return self._allowed(like.dtype, cuts)
        key = (blocks, like.device, like.dtype)
        if key not in self._square:
            with torch.inference_mode(False):  # what is kept must serve training, too
                self._square = {key: self._allowed(like.dtype, cuts)}  # one entry: training repeats one length
        return self._square[key]

    def _allowed(self, dtype: torch.dtype, cuts: Iterable[tuple[Tensor, Tensor]]) -> Shaped[Tensor, " cuts #h t s"]:
        """The mask the fused kernel takes for each cut of the map, given as the positions of its queries and keys.

        Booleans, or position biases with -inf where nothing is visible.
        """
        found = []
        for q_pos, k_pos in cuts:
            visible, bias = self.visible(q_pos, k_pos)[None], self.position.bias(q_pos, k_pos)
            found.append(visible if bias is None else bias.to(dtype).masked_fill(~visible, -torch.inf))
        return torch.stack(found)

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
        return self.head_dim + self.carries * (self.n_heads // self.n_kv_heads)

    def empty_tail(self, batch: int) -> Tensor | None:
        """What a short convolution remembers before the first token; None without one."""
        return None

    def remember(self, heads: Heads, state: SoftmaxState, shared: Shared) -> tuple[KeysValues, Cache]:
        """Keep the new keys and values, and say which ones are at hand; a layer that reads another's keeps none."""
        rows = heads.k
        if self.carries:  # (b, h, n, e) -> (b, g, n, h / g * e), beside the key that it belongs to
            carried = heads.extra["carried"].unflatten(1, (self.n_kv_heads, -1)).transpose(2, 3).flatten(3)
            rows = torch.cat([rows, carried.to(rows.dtype)], dim=-1)
        return state.cache.append(rows, heads.v, self.mask)

    def step(
        self, x: Float[Tensor, "b n c"], state: SoftmaxState, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], SoftmaxState]:
        shared = Shared() if shared is None else shared
        seen = state.cache.seen
        heads = self.share(self.project(x, seen, state.tail), shared)
        at_hand, cache = self.remember(heads, state, shared)
        q_pos = torch.arange(seen, seen + x.size(1), device=x.device)
        o = self.attend(self.recalled(heads, at_hand), q_pos, at_hand.pos)
        return self.merge(o, heads), SoftmaxState(cache, heads.extra.get("tail"))

    def recalled(self, heads: Heads, at_hand: KeysValues) -> Heads:
        """The new queries beside the keys and values at hand, and what these carry."""
        dtype, extra = heads.q.dtype, heads.extra
        k = at_hand.k.to(dtype)
        if self.carries:
            k, carried = k.split([self.head_dim, k.size(-1) - self.head_dim], dim=-1)
            extra = extra | {"carried": carried.unflatten(-1, (-1, self.carries)).transpose(2, 3).flatten(1, 2)}
        return heads._replace(k=k, v=at_hand.v.to(heads.v.dtype), extra=extra)

    def pairs(self, seq_len: int) -> int | None:
        k_pos = torch.arange(seq_len)
        return sum(int(self.mask.visible(rows, k_pos).sum()) for rows in k_pos.split(1024))
