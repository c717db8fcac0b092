"""RWKV-7: a state that decays row by row, and that is corrected under one key and written under another."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnlab.attention.borders import Borders
from attnlab.attention.chunk_decay import ChunkDecay, add_product
from attnlab.attention.documents import Documents, Start
from attnlab.attention.heads import Heads, join_heads, split_heads
from attnlab.attention.precision import full_precision
from attnlab.attention.published import Starts
from attnlab.attention.rwkv_start import rwkv7_starts
from attnlab.attention.scan import chunks, corrections, unchunked
from attnlab.attention.shared import FirstValues, Shared
from attnlab.attention.state import StateAttention
from attnlab.attention.traits import Traits
from attnlab.attention.uncompiled import uncompiled
from attnlab.options import Count, option

SHARPEST = 0.6065306597126334  # e^(-1/2): no row decays faster than by a factor e^(-e^(-1/2)) = 0.545 per token
MIXED = ("r", "k", "v", "w", "a", "g")  # what is read off a token and the one before it, each in its own shares


@uncompiled  # as in scan.py
def erase_and_write(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t v"],
    log_decay: Float[Tensor, "b h t d"],
    removal: Float[Tensor, "b h t d"],
    rate: Float[Tensor, "b h t d"],
    state: Float[Tensor, "b h d v"],
    chunk: int = 64,
    starts: Bool[Tensor, "b t"] | None = None,
) -> tuple[Float[Tensor, "b h t v"], Float[Tensor, "b h d v"]]:
    """S_t = (diag(w_t) - (a_t * n_t) n_t^T) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t, in chunks of `chunk` tokens.

    n is `removal`, a `rate` and w = exp(log_decay). What a token removes, u_t = n_t^T S_{t-1}, is taken off under
    a_t * n_t. In a chunk, with G the running sum of log decays and [x, y]_ij = sum_c x_ic y_jc exp(G_{i-1,c} - G_jc),
    for n meets the memory before it decays, U solves (I + tril([n, a n], -1)) U = tril([n, k], -1) V + (n exp(G_{i-1}))
    S. The token at each of the `starts` finds an empty memory.
    """
    if not (t := q.size(2)):
        return v, state
    if t == 1 and starts is None:
        left = torch.addcmul(state * log_decay.exp().mT, (rate * removal).mT, removal @ state, value=-1)
        return q @ (state := torch.addcmul(left, k.mT, v)), state
    chunk = min(chunk, t)
    pad = -t % chunk  # zeros, which decay nothing, remove nothing and write nothing
    if starts is not None:
        removal = removal.masked_fill(starts[:, None, :, None], 0.0)  # nothing is there to remove
    q, k, v, log_w, meet, erase = (chunks(x, pad, chunk) for x in (q, k, v, log_decay, removal, rate * removal))
    decay = ChunkDecay(log_w, None if starts is None else Borders.of(starts, pad, chunk, q.dtype), q)
    keys, erasures = decay.written(k), decay.written(erase)
    [[of_values, of_removals], [removed, system]], [read, met] = decay.meet([q], [keys, erasures], [meet], early=True)
    unit = torch.eye(chunk, dtype=q.dtype, device=q.device).expand_as(system)
    solve = torch.linalg.solve_triangular(system, unit, upper=False, unitriangular=True)
    taken, written = removed.tril(-1) @ v, keys.joins.mT @ v
    u, states, state = corrections(taken, met, solve, erasures.joins, decay, state, written, sign=1.0)
    return unchunked(add_product(add_product(of_values @ v, read, states), of_removals, u, sign=-1.0), t), state


class LowRank(nn.Module):
    """W2 f(W1 x) + b through `rank` numbers, which makes a gate of every channel cheap."""

    def __init__(self, d_model: int, rank: int, width: int, between: Callable[[Tensor], Tensor], start: Tensor | None):
        super().__init__()
        self.to_rank, self.to_all = nn.Linear(d_model, rank, bias=False), nn.Linear(rank, width, bias=False)
        self.between = between
        self.bias = None if start is None else nn.Parameter(start)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t hd"]:
        y = self.to_all(self.between(self.to_rank(x)))
        return y if self.bias is None else (y + self.bias).to(torch.promote_types(y.dtype, torch.float32))


class Removal(NamedTuple):
    """The key that a token removes under, and how much of each of its channels."""

    removal: Float[Tensor, "b h t d"]
    rate: Float[Tensor, "b h t d"]


class RWKV7Attention(StateAttention):
    """Each token decays the memory row by row, takes out a share of what it finds under one key, and adds its value.

    Rule: S_t = (diag(w_t) - (a_t * n_t) n_t^T) S_{t-1} + k_t v_t^T, o_t = S_t^T r_t. Here n = (xi * k) / |xi * k| is
    the key to remove under, a = sigmoid(.) how much of each of its channels is removed (the learning rate in the
    context), log w = -e^(-1/2) sigmoid(.), and the key to write under is k * (1 + alpha * (a - 1)). All are read off
    the token and, in shares that each channel learns, the one before it. Heads are normalised, the token's own value is
    added in proportion to sum_c rho_c r_c k_c, and a gate from the token multiplies all.

    With `first_values`, a later layer's value is v + sigmoid(.) (v_1 - v), v_1 the first layer's.

    Source: RWKV-7, arXiv 2503.14456, and its author's code, whose start is rwkv_start.py; ours is alike in all layers.
    Where we differ: `first_values` is false unless asked for, all low-rank maps meet at `rank` numbers, a position may
    rotate queries and keys, the feed-forward layer is the model's, and the norm adds 1e-5 of the width of a head to the
    variance (theirs is 64e-5 of 64).
    """

    documents = mixes_rows = True
    withdrawn = {"value_dim"}
    rank: Count = option(default=32, doc="Numbers through which the low-rank maps go.")
    chunk: Count = option(default=64, doc="Tokens of one matrix product while training; changes speed, not results.")
    first_values: bool = option(default=False, doc="Whether later layers mix the first layer's values into their own.")

    traits = Traits("signed", "constant")

    @property
    def published(self) -> Starts:
        return rwkv7_starts(self.d_model, self.n_heads, self.head_dim, self.layer, max(self.n_layers, self.layer + 1))

    def setup(self) -> None:
        super().setup()
        d_model, n_heads, d, rank = self.d_model, self.n_heads, self.head_dim, self.rank
        width = n_heads * d
        # From the token before alone to the token alone, over the channels.
        self.shares = nn.ParameterDict({name: nn.Parameter(torch.linspace(1, 0, d_model)) for name in MIXED})
        self.to_r, self.to_k, self.to_v = (nn.Linear(d_model, width, bias=False) for _ in range(3))
        slow_to_fast = torch.linspace(-5.5, 0.5, d).repeat(n_heads)  # rows that hold for hundreds of tokens, or few
        self.to_decay = LowRank(d_model, rank, width, torch.tanh, slow_to_fast)
        self.to_rate = LowRank(d_model, rank, width, nn.Identity(), torch.zeros(width))
        self.to_gate = LowRank(d_model, rank, width, torch.sigmoid, None)
        self.to_first: LowRank | None = None
        if self.first_values and self.layer:
            self.to_first = LowRank(d_model, rank, width, nn.Identity(), torch.linspace(0.93, 0.53, width))
            self.traits = replace(self.traits, requires=(FirstValues,))
        self.xi, self.alpha = nn.Parameter(torch.ones(n_heads, 1, d)), nn.Parameter(torch.ones(n_heads, 1, d))
        self.rho = nn.Parameter(torch.zeros(n_heads, 1, d))
        self.gain, self.offset = nn.Parameter(torch.ones(n_heads, 1, d)), nn.Parameter(torch.zeros(n_heads, 1, d))
        self.to_out = nn.Linear(width, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        before = x.new_zeros(x.size(0), 1, self.d_model) if tail is None else tail.to(x.dtype)
        earlier = torch.cat([before, x], dim=1)
        last = earlier[:, :-1]
        if isinstance(start, Documents):
            last = last.masked_fill(start.starts[..., None], 0.0)
        change = last - x
        mixed = {name: x + change * share.to(x.dtype) for name, share in self.shares.items()}
        work = torch.promote_types(x.dtype, torch.float32)
        r, k, v, decay, rate = (
            split_heads(make(mixed[name]), self.n_heads)
            for name, make in zip(MIXED, (self.to_r, self.to_k, self.to_v, self.to_decay, self.to_rate), strict=False)
        )
        r, k = self.position.rotate(r, start), self.position.rotate_keys(k, start).to(work)
        rate, removal = rate.to(work).sigmoid(), F.normalize(k * self.xi, dim=-1)
        first = None
        if self.to_first is not None:
            first = split_heads(self.to_first(mixed["v"]).sigmoid(), self.n_heads)
        return Heads(
            r,
            k * (1 + self.alpha * (rate - 1)),
            v,
            tail=earlier[:, -1:].clone(),
            log_decay=-SHARPEST * decay.to(work).sigmoid(),
            gate=self.to_gate(mixed["g"]),
            own=Removal(removal, rate),
            carried=first,  # the first layer's share of each value
        )

    def share(self, heads: Heads, shared: Shared) -> Heads:
        if not self.first_values:
            return heads
        if self.to_first is None:
            shared.publish(FirstValues(heads.v))
            return heads
        assert heads.carried is not None
        change = (shared.read(FirstValues).v - heads.v) * heads.carried
        return heads._replace(v=heads.v + change.to(heads.v.dtype), carried=None)

    def empty_tail(self, batch: int) -> Float[Tensor, "b 1 c"]:
        return self.anchor.new_zeros(batch, 1, self.d_model)

    def empty(self, batch: int, value_dim: int) -> Float[Tensor, "b h d v"]:
        return self.zeros(batch, self.n_heads, self.head_dim, value_dim)

    def scan(
        self, heads: Heads, memory: Float[Tensor, "b h d v"], start: int
    ) -> tuple[Float[Tensor, "b h t v"], Float[Tensor, "b h d v"]]:
        """Run the recurrence over the tokens of `heads`, in float32 at least; used by training, maps and decoding."""
        with full_precision(heads.q.device):
            q, k, v, log_w, removal, rate = (x.to(memory.dtype) for x in (*heads[:3], heads.log_decay, *heads.own))
            starts = None if heads.documents is None else heads.documents.starts
            o, memory = erase_and_write(q, k, v, log_w, removal, rate, memory, self.chunk, starts)
            return o.to(heads.v.dtype), memory

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        work = heads.k.dtype
        normed = F.layer_norm(o.to(work), (self.value_dim,), eps=1e-5 * self.value_dim) * self.gain + self.offset
        own = (heads.q.to(work) * heads.k * self.rho).sum(dim=-1, keepdim=True) * heads.v
        assert heads.gate is not None
        return self.to_out(join_heads(normed + own).to(heads.gate.dtype) * heads.gate)
