"""A window of single tokens, and one summary for each block of tokens before it."""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attnlab.attention.base import HeadedAttention, Shared
from attnlab.attention.cache import Cache
from attnlab.attention.compressor import Compressor
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads, split_heads
from attnlab.attention.mask import Window
from attnlab.attention.norm import RMSNorm
from attnlab.attention.normalizer import Sink
from attnlab.attention.position import Position
from attnlab.attention.published import ALIKE, Starts
from attnlab.attention.traits import Traits
from attnlab.errors import UsageError
from attnlab.options import Count, Fraction, option


class Uncompressed(NamedTuple):
    """What blocks are made of, token by token: contents and logits."""

    rows: Float[Tensor, "b t e"]


class CompressedState(NamedTuple):
    """What `step` keeps: a ring of the window, what blocks not yet pooled are made of, and the blocks so far."""

    cache: Cache
    tail: Float[Tensor, "b n e"]
    blocks: Float[Tensor, "b n e"]


class HeavilyCompressedAttention(HeadedAttention):
    """Each query reads a window of tokens and one summary of every block that has ended, keys and values in one.

    Rule: o_i = R_i^-1 sum_j a_ij R_j u_j, a = softmax over window, blocks and a sink b_h of q_i . R_j u_j / sqrt(d). In
    the window u_j = rms(W x_j); of a block B of `block` tokens u_B = rms(sum_j softmax_j(Z x_j + b_j) * C x_j), channel
    by channel, at the position of its first token. One u serves all heads; queries are q = rotate(rms(W_q rms(W_D x))).
    R rotates as position= says, and turning the output back leaves distances. A block's summary is not linear in its
    tokens: there is no map to show.

    Source: DeepSeek-V4, arXiv 2606.19348 (HCA). Where we differ: the output projection is one matrix; theirs maps
    groups of heads to few numbers first. The scores of all tokens are formed and those outside the window masked.
    Decoding keeps the window, the block that runs, and the summaries.
    """

    withdrawn = {"n_kv_heads", "value_dim"}
    published: ClassVar[Starts] = {"sink.logit": ALIKE}
    q_rank: Count = option(default=None, null="d_model / 2", doc="Width of the latent of queries.")
    block: Count = option(default=16, short=2, doc="Tokens of a block.")
    window: Count = option(default=32, short=3, doc="Latest tokens that a query reads, its own included.")
    dropout: Fraction = option(default=0.0, doc="Share of the weights that is dropped while training.")

    hooks = frozenset({"rotate"})
    traits = Traits("none", "linear")
    overlap = False  # whether a block's summary reaches into the block before it

    def setup(self) -> None:
        self.n_kv_heads = 1
        super().setup()
        self.q_rank = self.q_rank or max(1, self.d_model // 2)
        self.latest = Window(self.window)
        self.to_q_latent = nn.Linear(self.d_model, self.q_rank, bias=False)
        self.q_latent_norm = RMSNorm(self.q_rank)
        self.to_q = nn.Linear(self.q_rank, self.n_heads * self.head_dim, bias=False)
        self.q_norm = RMSNorm(self.head_dim, gain=False)
        self.to_kv = nn.Linear(self.d_model, self.head_dim, bias=False)
        self.kv_norm = RMSNorm(self.head_dim)
        self.sink = Sink(n_heads=self.n_heads)
        self.to_out = nn.Linear(self.n_heads * self.head_dim, self.d_out, bias=False)
        self.compressor = Compressor(self.d_model, self.head_dim, self.block, overlap=self.overlap)

    def compressors(self) -> list[tuple[Compressor, Position]]:
        """What makes summaries of blocks, and the position that rotates them."""
        return [(self.compressor, self.position)]

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        return self.heads_from(x, self.q_latent_norm(self.to_q_latent(x)), start)

    def heads_from(self, x: Float[Tensor, "b t c"], latent: Float[Tensor, "b t r"], start: Start) -> Heads:
        q, kv = self.q_norm(split_heads(self.to_q(latent), self.n_heads)), self.kv_norm(self.to_kv(x))[:, None]
        rotated = self.position.rotate(q, start), self.position.rotate_keys(kv, start)
        return Heads(*rotated, kv, own=Uncompressed(self.compressor(x)))

    def compress(self, tail: Float[Tensor, "b n e"], heads: Heads, start: int) -> tuple[Tensor, Tensor]:
        """The blocks that end among new tokens, rotated, (b, n, d), and the next tail."""
        rows, length = torch.cat([tail.to(heads.own.rows.dtype), heads.own.rows], dim=1), heads.q.size(2)
        first, end = start // self.block, (start + length) // self.block
        shift = tail.size(1) - start  # from a token's position to its row
        whole = rows[:, (first - self.overlap) * self.block + shift : end * self.block + shift]
        parts = whole.split([each.row for each, _ in self.compressors()], dim=-1)
        summaries = []
        for (compressor, position), part in zip(self.compressors(), parts, strict=True):
            spread = compressor.pool(part, first)[:, None].repeat_interleave(self.block, dim=2)
            summaries.append(position.rotate_keys(spread, first * self.block)[:, 0, :: self.block])
        return torch.cat(summaries, dim=-1), rows[:, rows.size(1) - tail.size(1) :].clone()

    def empty_tail(self, batch: int) -> Float[Tensor, "b n e"]:
        tokens = (1 + self.overlap) * self.block - 1
        return self.anchor.new_zeros(batch, tokens, sum(each.row for each, _ in self.compressors()))

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        blocks, _ = self.compress(self.empty_tail(heads.q.size(0)), heads, 0)
        pos = torch.arange(heads.q.size(2), device=heads.q.device)
        return self.attend(heads, heads.k, blocks, 0, pos)

    def choose(
        self, heads: Heads, blocks: Float[Tensor, "b n e"], ended: Bool[Tensor, "t n"]
    ) -> tuple[Bool[Tensor, "*b t n"], Float[Tensor, "b 1 t n"] | None]:
        """Which blocks each query reads of those that have ended, and by what rating; here all, by none."""
        return ended, None

    def attend(
        self,
        heads: Heads,
        kv: Float[Tensor, "b 1 s d"],
        blocks: Float[Tensor, "b n e"],
        start: int,
        k_pos: Int[Tensor, " s"],
    ) -> Float[Tensor, "b h t v"]:
        """Queries from position `start` on, against tokens at some positions and the blocks."""
        q_pos = torch.arange(start, start + heads.q.size(2), device=k_pos.device)
        work = torch.promote_types(heads.q.dtype, torch.float32)
        end = (torch.arange(blocks.size(1), device=q_pos.device) + 1) * self.block
        chosen, rating = self.choose(heads, blocks, end <= q_pos[:, None] + 1)
        near = self.latest.visible(q_pos, k_pos) & (k_pos >= 0)
        visible = torch.cat([near.expand(*chosen.shape[:-1], -1), chosen], dim=-1)
        keys = torch.cat([kv.to(work), blocks[:, None, :, : self.head_dim].to(work)], dim=2)
        scores = (heads.q.to(work) @ keys.mT).to(work) * self.head_dim**-0.5
        if rating is not None and torch.is_grad_enabled():  # zero: it only leads a gradient to what chooses
            scores = scores + F.pad(rating - rating.detach(), (near.size(-1), 0))
        weights = F.dropout(self.sink(scores, visible), self.dropout, self.training)
        return self.turned_back(weights @ keys, start).to(heads.v.dtype)

    def turned_back(self, o: Float[Tensor, "b h t d"], start: int) -> Float[Tensor, "b h t d"]:
        """Rotated by the opposite of the queries' angles: of each pair (a, b) it is (a, -b) that rotates forwards."""
        mirror = torch.ones(self.head_dim, dtype=o.dtype, device=o.device)
        mirror[1::2] = -1.0
        return self.position.rotate(o * mirror, start) * mirror

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(o))

    def weights(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> None:
        return None

    def init_state(self, batch: int, max_len: int) -> CompressedState:
        sizes = {"batch": batch, "max_len": max_len, "heads": 1, "d": self.head_dim, "v": 0}
        widths = sum(each.width for each, _ in self.compressors())
        blocks = self.anchor.new_zeros(batch, max_len // self.block, widths)
        return CompressedState(Cache.empty(self.latest, like=self.anchor, **sizes), self.empty_tail(batch), blocks)

    def step(
        self, x: Float[Tensor, "b n c"], state: CompressedState, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], CompressedState]:
        start, end = state.cache.length, state.cache.length + x.size(1)
        if end // self.block > state.blocks.size(1):
            raise UsageError(f"the decode state has room for {state.blocks.size(1)} blocks, not {end // self.block}")
        heads = self.project(x, start)
        near, cache = state.cache.append(heads.k, heads.k[..., :0], self.latest)
        blocks, tail = self.compress(state.tail, heads, start)
        state.blocks[:, start // self.block : end // self.block] = blocks
        o = self.attend(heads, near.k, state.blocks[:, : end // self.block], start, near.pos)
        return self.merge(o, heads), CompressedState(cache, tail.to(state.tail.dtype), state.blocks)

    def pairs(self, seq_len: int) -> int:
        return sum(min(i, self.window) + i // self.block for i in range(1, seq_len + 1))
