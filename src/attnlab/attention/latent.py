"""Keys and values from one small latent per token, which is all that decoding keeps."""

from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Shared
from attnlab.attention.cache import Cache
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.norm import EPS, RMSNorm
from attnlab.attention.output import GatedOutput
from attnlab.attention.position import Position
from attnlab.attention.score import Score
from attnlab.attention.softmax import SoftmaxAttention, SoftmaxState
from attnlab.errors import UsageError
from attnlab.options import Count, OptionError, Positive, option
from attnlab.options.rules import NATURAL


class Latent(NamedTuple):
    """What decoding keeps of each token: its latent, and its rotary key."""

    rows: Float[Tensor, "b g t e"]


class LatentAttention(GatedOutput, SoftmaxAttention):
    """Makes the keys and values of all heads from one small latent per token, so that little need be kept.

    Rule: c = rms(W_DKV x), k_h = [W_UK_h c; rotate(W_KR x)], v_h = W_UV_h c. One rotary key serves all heads; the score
    is q_h . k_h / sqrt(d). Of a head's width d, `rope_dim` coordinates are rotary. Training expands the latent;
    decoding keeps (c, rotary key) alone, for q . (W_UK c) = (W_UK^T q) . c and W_UV can wait until after the map.
    `rope_dim` 0 leaves the rotary part out (arXiv 2510.26692).

    Source: DeepSeek-V2, arXiv 2405.04434, which has a norm on the latent, too; without one, as in Raschka's chapter on
    it, the latent is as large as W_DKV makes it.
    """

    documents = True
    withdrawn = {"n_kv_heads"}
    kv_rank: Count = option(default=None, null="d_model / 2", doc="Width of the latent of keys and values.")
    q_rank: Count = option(default=None, null="no latent", doc="Width of the latent of queries.")
    rope_dim: Annotated[Any, NATURAL] = option(
        default=None, null="head_dim / 2", doc="Rotary coordinates of a head; 0: none."
    )
    value_dim: Count = option(default=None, null="head_dim", doc="Width of a value in each head.")
    norm_eps: Positive = option(default=None, null="2^-23", doc="Added to the mean square of the latents.")

    groups = 1  # how many latents there are, each for so many heads

    def setup(self) -> None:
        super().setup()
        for mod in self.score_mods:
            changes = type(mod).prepare is not Score.prepare or type(mod).prepare_rotated is not Score.prepare_rotated
            if changes or mod.cached_extras or mod.reads_keys:
                raise UsageError(
                    f"attention/score ({type(mod).__name__}) must not read, change or extend keys: latent attention "
                    "never makes them while decoding; remove it"
                )
        if not self.rope_dim:
            self.traits = replace(self.traits, uses_position=False)
        self.kv_rank = self.kv_rank or max(1, self.d_model // 2)
        self.plain_dim = self.head_dim - self.rope_dim
        self.to_q_latent = nn.Linear(self.d_model, self.q_rank, bias=False) if self.q_rank else None
        self.q_norm = RMSNorm(self.q_rank, eps=self.norm_eps or EPS) if self.q_rank else None
        self.to_q = nn.Linear(self.q_rank or self.d_model, self.n_heads * self.head_dim, bias=False)
        self.to_latent = nn.Linear(self.d_model, self.kv_rank, bias=False)
        self.norm = RMSNorm(self.kv_rank, eps=self.norm_eps or EPS)
        self.to_k = nn.Linear(self.kv_rank, self.n_heads * self.plain_dim, bias=False)
        self.to_v = nn.Linear(self.kv_rank, self.n_heads * self.value_dim, bias=False)
        self.to_k_rotary = nn.Linear(self.d_model, self.rope_dim, bias=False) if self.rope_dim else None
        self.build_output(self.n_heads)

    def build_position(self, head_dim: int) -> Position:
        if self.rope_dim is None:
            self.rope_dim = max(2, head_dim // 4 * 2)
        if self.rope_dim >= head_dim:
            raise OptionError("rope_dim", self.rope_dim, f"must be less than head_dim ({head_dim})")
        if not self.rope_dim:
            self.hooks = frozenset({"bias"})
        return super().build_position(self.rope_dim or head_dim)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, rows = split_heads(self.to_q(self.query_latent(x)), self.n_heads), self.latents(x)
        k, v = self.expand(self.to_k, rows), self.expand(self.to_v, rows)
        if self.to_k_rotary is not None:
            plain, rotary = q.split([self.plain_dim, self.rope_dim], dim=-1)
            key = self.position.rotate_keys(self.to_k_rotary(x)[:, None], start)
            q = torch.cat([plain, self.position.rotate(rotary, start)], dim=-1)
            k = torch.cat([k, key.expand(-1, self.n_heads, -1, -1)], dim=-1)
            rows = torch.cat([rows, key.expand(-1, self.groups, -1, -1)], dim=-1)
        return Heads(q, k, v, gate=self.gate.project(x), own=Latent(rows))

    def latents(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b g t r"]:
        """The latents of keys and values; here one for all heads."""
        c: Tensor = self.norm(self.to_latent(x))
        return c[:, None]

    def expand(self, up: nn.Linear, c: Float[Tensor, "b g t r"]) -> Float[Tensor, "b h t d"]:
        """What each head makes of its latent."""
        return split_heads(up(c[:, 0]), self.n_heads)

    def query_latent(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t r"]:
        """The latent of the queries, or the tokens where there is none."""
        return x if self.to_q_latent is None or self.q_norm is None else self.q_norm(self.to_q_latent(x))

    @property
    def row_width(self) -> int:
        """Numbers cached per token."""
        return self.kv_rank + self.rope_dim

    def read_rows(self, heads: Heads, rows: Float[Tensor, "b g s e"]) -> Heads:
        """The heads of new tokens beside what was cached, where a subclass caches more than keys and values."""
        return heads

    def of_heads(self, rows: Float[Tensor, "b g s e"]) -> Float[Tensor, "b h s e"]:
        """What each head reads of the rows of its latent."""
        return rows[:, :, None].expand(-1, -1, self.n_heads // self.groups, -1, -1).flatten(1, 2)

    def init_state(self, batch: int, max_len: int) -> SoftmaxState:
        sizes = {"batch": batch, "max_len": max_len, "heads": self.groups, "d": self.row_width, "v": 0}
        cache = Cache.empty(self.mask, like=self.anchor, **sizes)
        return SoftmaxState(cache, None)

    def step(
        self, x: Float[Tensor, "b n c"], state: SoftmaxState, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], SoftmaxState]:
        start = state.cache.length
        heads = self.project(x, start)
        rows = heads.own.rows
        visible_kv, cache = state.cache.append(rows, rows[..., :0], self.mask)
        up_k, up_v = (w.weight.unflatten(0, (self.n_heads, -1)) for w in (self.to_k, self.to_v))  # (h, d, rank)
        plain, rotary = heads.q.split([self.plain_dim, self.rope_dim], dim=-1)
        q = torch.cat([plain.to(up_k.dtype) @ up_k, rotary], dim=-1)
        k = self.of_heads(visible_kv.k[..., : q.size(-1)].to(q.dtype))
        latent = self.of_heads(visible_kv.k[..., : self.kv_rank].to(heads.v.dtype))
        q_pos = torch.arange(start, start + x.size(1), device=x.device)
        whole = self.read_rows(heads._replace(q=q, k=k, v=latent), visible_kv.k)
        whole = self.share(whole, Shared() if shared is None else shared)
        o = self.attend(whole, q_pos, visible_kv.pos) @ up_v.mT
        return self.merge(o, heads), SoftmaxState(cache, None)
