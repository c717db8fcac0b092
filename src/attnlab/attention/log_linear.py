"""Log-linear attention: a few memories of growing age, so that what is recent is kept apart from what is old."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.attention.base import Growth, HeadedAttention, Heads, MapKind, full_precision, join_heads, running_sum
from attnlab.attention.decay import Decay
from attnlab.attention.projection import QKV
from attnlab.attention.shared import Shared
from attnlab.errors import UsageError
from attnlab.norm import HeadNorm
from attnlab.position import Position, softplus_inverse

ONE = softplus_inverse(1.0)


class LevelState(NamedTuple):
    """What `step` keeps: one memory per level in float32 at least, the first always empty, and the tokens seen."""

    memory: Float[Tensor, "b h l d v"]
    seen: int


def levels(n: int, device: torch.device) -> Int[Tensor, "n n"]:
    """The level on which query i finds key j <= i: 0 for i = j, else the number of bits of i xor j."""
    pos = torch.arange(n, device=device)
    differ = pos[:, None] ^ pos
    return sum(((differ >> bit) > 0).long() for bit in range(max(n - 1, 1).bit_length()))  # type: ignore[return-value]


class LogLinearAttention(HeadedAttention):
    """Linear attention that sorts the past into about log2(t) stretches, each twice as long, and rates each apart.

    A_ij = lambda_i^level(i,j) * a_{j+1} ... a_i * q_i . k_j / sqrt(d), lambda = softplus of a linear map of x_i, one
    number per level; level(i, j) is the number of bits of i xor j (the stretches of a Fenwick tree). Decoding keeps one
    matrix per level, log2(context) + 1 of them. Training here writes the whole map out, which takes memory that grows
    with the square of the length: the paper's chunks would give the same numbers in less.

    Source: arXiv 2506.04761. lambda starts at 1 whatever the token, which is linear attention with a decay.
    """

    hooks = frozenset({"rotate"})
    map_kind: MapKind = "signed"
    growth: Growth = "constant"
    limit: int

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        head_dim: int | None = None,
        value_dim: int | None = None,
        d_out: int | None = None,
        decay: Callable[..., Decay] = Decay,
        position: Callable[..., Position] = Position,
        layer: int = 0,
        n_layers: int = 1,
        context: int = 1024,
    ) -> None:
        super().__init__(
            d_model,
            n_heads=n_heads,
            head_dim=head_dim,
            value_dim=value_dim,
            d_out=d_out,
            layer=layer,
            n_layers=n_layers,
        )
        self.limit, self.n_levels = context, (context - 1).bit_length() + 1
        self.position = self.honoured(position, context)
        self.qkv = QKV(self, bias=False, conv=0)
        self.decay = decay(d_model=d_model, n_heads=n_heads, head_dim=self.head_dim)
        if self.decay.per_channel:
            raise UsageError(
                f"attention/decay ({type(self.decay).__name__}) must be one number per head and token for "
                "attention=log_linear, which writes the fading of its whole map out: use none, fixed or scalar"
            )
        self.to_level = nn.Linear(d_model, n_heads * self.n_levels, bias=False)
        self.output_norm = HeadNorm(self.value_dim)
        self.to_out = nn.Linear(n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        if start + x.size(1) > self.limit:
            raise UsageError(
                f"attention=log_linear has levels for {self.limit} positions (model.context), "
                f"not {start + x.size(1)}; use attention=linear for longer texts"
            )
        q, k, v, extra = self.qkv(x, tail)
        extra["level"] = F.softplus(self.to_level(x) + ONE).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        decay = self.decay.project(x)
        extra["log_decay"] = q.new_zeros(q.shape[:3]) if decay is None else decay
        q, k = self.position.rotate(q, start), self.position.rotate_keys(k, start)
        return Heads(q * self.head_dim**-0.5, self.decay.scale_keys(k, x), v, extra)

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        work = torch.promote_types(self.anchor.dtype, torch.float32)
        with full_precision(heads.q.device):
            q, k, v = (p.to(work) for p in heads[:3])
            t, age = q.size(2), running_sum(heads.extra["log_decay"])
            later = torch.ones(t, t, dtype=torch.bool, device=q.device).triu(1)
            fade = (age[..., :, None] - age[..., None, :]).to(work).masked_fill(later, -torch.inf).exp()
            place = levels(t, q.device).expand(*q.shape[:2], -1, -1)
            rating = heads.extra["level"].to(work).gather(-1, place)
            return ((q @ k.mT) * fade * rating @ v).to(heads.v.dtype)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(self.output_norm(o)))

    def init_state(self, batch: int, max_len: int) -> LevelState:
        work = torch.promote_types(self.anchor.dtype, torch.float32)
        shape = (batch, self.n_heads, self.n_levels, self.head_dim, self.value_dim)
        return LevelState(self.anchor.new_zeros(shape, dtype=work), 0)

    def step(
        self, x: Float[Tensor, "b n c"], state: LevelState, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], LevelState]:
        heads, out = self.project(x, state.seen), []
        memory, work = state.memory, state.memory.dtype
        with full_precision(x.device):
            q, k, v, level, decay = (
                p.to(work) for p in (*heads[:3], heads.extra["level"], heads.extra["log_decay"].exp())
            )
            for i in range(x.size(1)):
                memory = memory * decay[:, :, i, None, None, None]
                memory[:, :, 0] = k[:, :, i, :, None] * v[:, :, i, None, :]
                answers = q[:, :, None, None, i] @ memory  # (b, h, l, 1, v)
                out.append((level[:, :, None, i] @ answers.squeeze(-2)).squeeze(-2))
                # The next position ends in as many zero bits as there are stretches that are now one, a level higher.
                after = state.seen + i + 1
                end = (after & -after).bit_length()
                if end < self.n_levels:  # else the context is full
                    memory[:, :, end] = memory[:, :, :end].sum(dim=2)
                memory[:, :, :end] = 0.0
        o = torch.stack(out, dim=2).to(heads.v.dtype) if out else heads.v
        return self.merge(o, heads), LevelState(memory, state.seen + x.size(1))
