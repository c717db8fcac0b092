"""Mamba-3: a state space whose steps are trapezoids, and whose state turns."""

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.chunk_decay import ChunkDecay, add_product
from attnlab.attention.decay_start import first_steps
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads, per_query_head
from attnlab.attention.norm import RMSNorm
from attnlab.attention.precision import full_precision, running_sum
from attnlab.attention.projection import QKV
from attnlab.attention.published import ALIKE, Starts, steps_between
from attnlab.attention.scan import chunks, states_between, unchunked
from attnlab.attention.state import StateAttention
from attnlab.attention.traits import Traits
from attnlab.attention.uncompiled import uncompiled
from attnlab.options import Count, NonNegative, OptionError, option

FLOOR = 1e-4  # the least rate of a decay


class RotatingState(NamedTuple):
    """What is kept of the tokens: their sum, the angle that the state has turned by, and the last of them."""

    matrix: Float[Tensor, "b h d v"]
    angle: Float[Tensor, "b h 1 p"]  # between 0 and 2 pi, for the first pairs of each key
    k: Float[Tensor, "b h 1 d"]  # turned
    v: Float[Tensor, "b h 1 v"]


class Steps(NamedTuple):
    """How far each token turns the state, how strongly it is written, and how strongly once more at the next one."""

    turn: Float[Tensor, "b h t p"]
    now: Float[Tensor, "b h t 1"]
    again: Float[Tensor, "b h t 1"]  # of the token before


@uncompiled  # as in scan.py
def trapezoids(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t v"],
    log_decay: Float[Tensor, "b h t"],
    now: Float[Tensor, "b h t 1"],
    later: Float[Tensor, "b h t 1"],
    state: Float[Tensor, "b h d v"],
    chunk: int,
) -> tuple[Float[Tensor, "b h t v"], Float[Tensor, "b h d v"]]:
    """S_t = a_t (S_{t-1} + later_{t-1} k_{t-1} v_{t-1}^T) + now_t k_t v_t^T, o_t = S_t^T q_t, in chunks.

    What the state finds of a token is now + later; the token itself finds now alone.
    """
    t = q.size(2)
    if t == 1:
        state = state * log_decay.exp()[..., None]
        o = q @ torch.addcmul(state, k.mT * now, v)
        return o, torch.addcmul(state, k.mT * (now + later), v)
    chunk = min(chunk, t)
    q, k, v, decay, now, later = (chunks(x, -t % chunk, chunk) for x in (q, k, v, log_decay[..., None], now, later))
    chunk_decay = ChunkDecay(decay, None, q)
    written = chunk_decay.written(k * (now + later))
    own = (q * k).sum(dim=-1, keepdim=True) * now
    [[within]], [read] = chunk_decay.meet([q], [written])
    states, state = states_between(written.joins.mT @ v, chunk_decay, state)
    o = add_product(add_product(own * v, within.tril(-1), v), read, states)
    return unchunked(o, t), state


def rotated(x: Float[Tensor, "b h t d"], angle: Float[Tensor, "b h t p"]) -> Float[Tensor, "b h t d"]:
    """The first p pairs of neighbouring coordinates, rotated."""
    first, rest = x.split([2 * angle.size(-1), x.size(-1) - 2 * angle.size(-1)], dim=-1)
    (a, b), cos, sin = first.unflatten(-1, (angle.size(-1), 2)).unbind(-1), angle.cos(), angle.sin()
    return torch.cat([torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2), rest], dim=-1)


class Mamba3Attention(StateAttention):
    """A state space read like attention: each step averages two tokens, and turns the state by angles from the token.

    Rule: S_t = a_t S_{t-1} + (1 - l_t) D_t a_t k_{t-1} v_{t-1}^T + l_t D_t k_t v_t^T, o_t = S_t^T q_t + e v_t. D =
    softplus(W x + b), log a = -D f(W x), f(x) = 1 + x above 0 and 1 / (1 - x) below, l = sigmoid(W x) (the trapezoid).
    Queries and keys (C and B) have unit root-mean-square, then a bias for each head; the first `turning` of their
    pairs are rotated by the sum so far of pi tanh(W x_s) D_s. Outputs are gated by silu(W x). No convolution, no norm
    of the output, no other position (position=none as published).

    Source: Mamba-3, arXiv 2603.15569, the form with one input and one output, and Mamba3 of its authors' code. The
    gains of the norms, the biases of queries and keys, and e start at 1; b so that softplus(b) runs from 0.1 to 0.001.
    Where we differ: it draws b at random; its heads are 64 wide, twice as many as here, beside a state of 128.
    """

    documents = True
    n_key_heads: Count = option(default=1, doc="Heads of queries and keys, each of several heads of values.")
    turning: NonNegative = option(default=0.5, doc="Share of a key's coordinates that turn; 0: none does.")
    chunk: Count = option(default=64, doc="Tokens of one matrix product while training; changes speed, not results.")
    published: ClassVar[Starts] = {
        "step_bias": steps_between(0.001, 0.1),
        **dict.fromkeys(("q_bias", "k_bias", "skip"), ALIKE),
    }
    traits = Traits("signed", "constant")

    def setup(self) -> None:
        super().setup()
        n_heads, d = self.n_heads, self.head_dim
        if n_heads % self.n_key_heads:
            raise OptionError("n_key_heads", self.n_key_heads, f"must divide n_heads ({n_heads})")
        self.pairs_rotated = int(d * self.turning) // 2
        if not 1 <= self.pairs_rotated <= d // 2 and self.turning:
            problem = f"must be 0, or at most 1 and leave at least a pair of the {d} coordinates of a key"
            raise OptionError("turning", self.turning, problem)
        self.qkv = QKV(self, heads=(self.n_key_heads, self.n_key_heads, n_heads))
        self.to_step, self.to_rate, self.to_share = (nn.Linear(self.d_model, n_heads, bias=False) for _ in range(3))
        self.to_turn = nn.Linear(self.d_model, self.pairs_rotated, bias=False) if self.pairs_rotated else None
        self.to_gate = nn.Linear(self.d_model, n_heads * self.value_dim, bias=False)
        self.step_bias = nn.Parameter(first_steps(n_heads))
        self.q_norm, self.k_norm = RMSNorm(d), RMSNorm(d)
        self.q_bias, self.k_bias = (nn.Parameter(torch.ones(n_heads, 1, d)) for _ in range(2))
        self.skip = nn.Parameter(torch.ones(n_heads))
        self.to_out = nn.Linear(n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, _ = self.qkv(x, tail)
        work = torch.promote_types(x.dtype, torch.float32)
        q, k = (per_query_head(norm(y.to(work)), self.n_heads) for norm, y in ((self.q_norm, q), (self.k_norm, k)))
        q, k = q + self.q_bias.to(work), k + self.k_bias.to(work)
        step = F.softplus((self.to_step(x) + self.step_bias).to(work)).mT
        rate = self.to_rate(x).to(work).mT
        rate = (rate.relu() + 1 / (1 - rate.clamp(max=0.0))).clamp(min=FLOOR)
        share = self.to_share(x).to(work).mT
        turns = x[..., :0] if self.to_turn is None else self.to_turn(x)
        turn = math.pi * turns.to(work).tanh()[:, None] * step[..., None]
        own = Steps(turn, (share.sigmoid() * step)[..., None], ((-share).sigmoid() * step)[..., None])
        q, k = self.position.rotate(q, start), self.position.rotate_keys(k, start)
        return Heads(q, k, v, log_decay=-rate * step, gate=self.to_gate(x), own=own)

    def scan(self, heads: Heads, memory: RotatingState, start: int) -> tuple[Float[Tensor, "b h t v"], RotatingState]:
        if not heads.v.size(2):
            return heads.v, memory
        with full_precision(heads.q.device):
            work = memory.matrix.dtype
            q, k, v, log_decay, turn, now, again = (x.to(work) for x in (*heads[:3], heads.log_decay, *heads.own))
            angle = ((running_sum(turn, dim=2) + memory.angle) % (2 * math.pi)).to(work)
            q, k = rotated(q, angle), rotated(k, angle)
            # What a token brings at the next one is known once that is here.
            state = memory.matrix + again[:, :, :1] * memory.k.mT * memory.v
            later = F.pad(again[:, :, 1:], (0, 0, 0, 1))
            o, state = trapezoids(q, k, v, log_decay, now, later, state, self.chunk)
            last = RotatingState(state, angle[:, :, -1:].clone(), k[:, :, -1:].clone(), v[:, :, -1:].clone())
            return o.to(heads.v.dtype), last

    def empty(self, batch: int, value_dim: int) -> RotatingState:
        sizes = ((self.head_dim, value_dim), (1, self.pairs_rotated), (1, self.head_dim), (1, value_dim))
        return RotatingState(*(self.zeros(batch, self.n_heads, *size) for size in sizes))

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        work = torch.promote_types(o.dtype, torch.float32)
        assert heads.gate is not None
        y = join_heads(o.to(work) + self.skip.to(work)[:, None, None] * heads.v.to(work)) * F.silu(heads.gate.to(work))
        return self.to_out(y.to(o.dtype))
