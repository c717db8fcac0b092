"""Keys and values from one small latent per token, which is all that decoding keeps."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Heads, Shared, join_heads, split_heads
from attnlab.attention.cache import Cache
from attnlab.attention.gate import Gate
from attnlab.attention.mask import Causal, Mask
from attnlab.attention.normalizer import Normalizer, Softmax
from attnlab.attention.score import Score
from attnlab.attention.softmax import SoftmaxAttention, SoftmaxState
from attnlab.errors import UsageError
from attnlab.norm import RMSNorm
from attnlab.position import Position


class LatentAttention(SoftmaxAttention):
    """Makes the keys and values of all heads from one small latent per token, so that little need be kept.

    c = rms(W_DKV x), k_h = [W_UK_h c; rotate(W_KR x)], v_h = W_UV_h c, with one rotary key for all heads; the score
    is q_h . k_h / sqrt(d). Of a head's width d, `rope_dim` coordinates are rotary. Training expands the latent;
    decoding keeps (c, rotary key) alone, for q . (W_UK c) = (W_UK^T q) . c and W_UV can wait until after the map.
    `rope_dim` 0 leaves the rotary part out (arXiv 2510.26692).

    Source: DeepSeek-V2, arXiv 2405.04434, which has a norm on the latent, too; without one, as in Raschka's chapter on
    it, the latent is as large as W_DKV makes it.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        head_dim: int | None = None,
        d_out: int | None = None,
        kv_rank: int | None = None,
        q_rank: int | None = None,
        rope_dim: int | None = None,
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
        self._rope_dim = rope_dim  # read by `honoured`, while the family is being built
        super().__init__(
            d_model,
            n_heads=n_heads,
            head_dim=head_dim,
            d_out=d_out,
            position=position,
            mask=mask,
            score=score,
            normalizer=normalizer,
            dropout=dropout,
            layer=layer,
            n_layers=n_layers,
            context=context,
        )
        for name, rank in (("kv_rank", kv_rank), ("q_rank", q_rank)):
            if rank is not None and rank < 1:
                raise UsageError(f"{name} ({rank}) must be at least 1")
        for link in self.chain:
            if type(link).prepare is not Score.prepare or link.carries or link.reads_keys:
                raise UsageError(
                    f"attention/score ({type(link).__name__}) must not read, change or extend keys: latent attention "
                    "never makes them while decoding; remove that link"
                )
        self.kv_rank = max(1, d_model // 2) if kv_rank is None else kv_rank
        self.plain_dim = self.head_dim - self.rope_dim
        self.to_q_latent = None if q_rank is None else nn.Linear(d_model, q_rank, bias=False)
        self.q_norm = None if q_rank is None else RMSNorm(q_rank)
        self.to_q = nn.Linear(d_model if q_rank is None else q_rank, n_heads * self.head_dim, bias=False)
        self.to_latent = nn.Linear(d_model, self.kv_rank, bias=False)
        self.norm = RMSNorm(self.kv_rank)
        self.to_k = nn.Linear(self.kv_rank, n_heads * self.plain_dim, bias=False)
        self.to_v = nn.Linear(self.kv_rank, n_heads * self.value_dim, bias=False)
        self.to_k_rotary = nn.Linear(d_model, self.rope_dim, bias=False) if self.rope_dim else None
        self.gate = gate(d_model=d_model, n_heads=n_heads, value_dim=self.value_dim)
        self.to_out = nn.Linear(n_heads * self.value_dim, self.d_out, bias=False)

    def honoured(self, position: Callable[..., Position], context: int) -> Position:
        self.rope_dim = max(2, self.head_dim // 4 * 2) if self._rope_dim is None else self._rope_dim
        if not 0 <= self.rope_dim < self.head_dim:
            raise UsageError(f"rope_dim ({self.rope_dim}) must be at least 0 and less than head_dim ({self.head_dim})")
        if self.rope_dim == 0:
            self.hooks, self.reads_positions = frozenset({"bias"}), False
            return super().honoured(position, context)

        def rotary(*, head_dim: int, n_heads: int, context: int) -> Position:
            made: Position = position(head_dim=self.rope_dim, n_heads=n_heads, context=context)
            return made

        return super().honoured(rotary, context)

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        wide = x
        if self.to_q_latent is not None and self.q_norm is not None:
            wide = self.q_norm(self.to_q_latent(x))
        q, c = split_heads(self.to_q(wide), self.n_heads), self.norm(self.to_latent(x))
        k, v = split_heads(self.to_k(c), self.n_heads), split_heads(self.to_v(c), self.n_heads)
        rows = c[:, None]
        if self.to_k_rotary is not None:
            plain, turned = q.split([self.plain_dim, self.rope_dim], dim=-1)
            key = self.position.rotate_keys(self.to_k_rotary(x)[:, None], start)
            q = torch.cat([plain, self.position.rotate(turned, start)], dim=-1)
            k = torch.cat([k, key.expand(-1, self.n_heads, -1, -1)], dim=-1)
            rows = torch.cat([rows, key], dim=-1)
        extra = {"rows": rows}
        if (gate := self.gate.project(x)) is not None:
            extra["gate"] = gate
        return Heads(q, k, v, extra)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(self.gate(o, heads.extra.get("gate"), heads.v)))

    def init_state(self, batch: int, max_len: int) -> SoftmaxState:
        width = self.kv_rank + self.rope_dim
        cache = Cache.empty(self.mask, batch=batch, max_len=max_len, heads=1, d=width, v=0, like=self.anchor)
        return SoftmaxState(cache, None)

    def step(
        self, x: Float[Tensor, "b n c"], state: SoftmaxState, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], SoftmaxState]:
        seen = state.cache.seen
        heads = self.project(x, seen)
        rows = heads.extra["rows"]
        at_hand, cache = state.cache.append(rows, rows[..., :0], self.mask)
        up_k, up_v = (w.weight.unflatten(0, (self.n_heads, -1)) for w in (self.to_k, self.to_v))  # (h, d, rank)
        plain, turned = heads.q.split([self.plain_dim, self.rope_dim], dim=-1)
        q = torch.cat([plain.to(up_k.dtype) @ up_k, turned], dim=-1)
        k = at_hand.k.to(q.dtype).expand(-1, self.n_heads, -1, -1)
        latent = at_hand.k[..., : self.kv_rank].to(heads.v.dtype).expand(-1, self.n_heads, -1, -1)
        q_pos = torch.arange(seen, seen + x.size(1), device=x.device)
        o = self.attend(heads._replace(q=q, k=k, v=latent), q_pos, at_hand.pos) @ up_v.mT
        return self.merge(o, heads), SoftmaxState(cache, None)
