"""Momentum DeltaNet: the delta rule as gradient descent with momentum."""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnlab.attention.borders import Borders
from attnlab.attention.chunk_decay import ChunkDecay, add_product
from attnlab.attention.decay import ScalarDecay
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads
from attnlab.attention.norm import HeadNorm
from attnlab.attention.output import GatedOutput
from attnlab.attention.precision import full_precision
from attnlab.attention.projection import QKV
from attnlab.attention.published import Starts, log_of_uniform, uniform
from attnlab.attention.scan import chunks, unchunked
from attnlab.attention.state import StateAttention
from attnlab.attention.traits import Traits
from attnlab.attention.uncompiled import uncompiled
from attnlab.options import Count, Natural, option

LEAST = -2.0  # of the momentum, its logarithm


class Rates(NamedTuple):
    """Of each token: the log of how much of the momentum remains, how much joins it, how much of it is written."""

    log_momentum: Float[Tensor, "b h t 1"]
    joins: Float[Tensor, "b h t 1"]
    writes: Float[Tensor, "b h t 1"]


class MomentumState(NamedTuple):
    """What is stored, and the momentum of what is being written."""

    stored: Float[Tensor, "b h d v"]
    momentum: Float[Tensor, "b h d v"]


@uncompiled  # as in scan.py
def with_momentum(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t v"],
    log_decay: Float[Tensor, "b h t"],
    rates: Rates,
    memory: MomentumState,
    chunk: int = 64,
    starts: Bool[Tensor, "b t"] | None = None,
) -> tuple[Float[Tensor, "b h t v"], MomentumState]:
    """N_t = m_t N_{t-1} + n_t k_t u_t^T, S_t = a_t S_{t-1} + b_t N_t, u_t = v_t - a_t S_{t-1}^T k_t, o_t = S_t^T q_t.

    m, n and b are the `rates`. Inside a chunk, with A_ij = a_{j+1} ... a_i and M_ij the same of m, for j <= i, u_j
    reaches S_i through momentum n_j G_ij, G = A diag(b) M, and N of the chunk before through A b m. What a token
    corrects, a_t S_{t-1}, takes A without its diagonal. A token at one of the `starts` finds an empty memory.
    """
    t = q.size(2)
    if t == 1 and starts is None:
        left = memory.stored * log_decay.exp()[..., None]
        gathered = torch.addcmul(memory.momentum * rates.log_momentum.exp(), k.mT * rates.joins, v - k @ left)
        memory = MomentumState(torch.addcmul(left, rates.writes, gathered), gathered)
        return q @ memory.stored, memory
    chunk = min(chunk, t)
    pad = -t % chunk  # zeros, which decay nothing and write nothing
    q, k, v, log_a, log_m, joins, writes = (chunks(x, pad, chunk) for x in (q, k, v, log_decay[..., None], *rates))
    borders = None if starts is None else Borders.of(starts, pad, chunk, q.dtype)
    stored, moving = ChunkDecay(log_a, borders, q), ChunkDecay(log_m, borders, q)
    a_in, m_in = stored.enter, moving.enter
    assert a_in is not None and m_in is not None
    k_joins, arriving = k * joins, writes * moving.pairs
    before = stored.pairs.tril(-1) @ arriving
    reach = before + arriving  # the diagonal of A is one
    # What arrives from the chunk before is what arrives from its first token, decayed there.
    met, through = (x[..., :1] * m_in[..., :1, :] for x in (before, reach))
    unit = torch.eye(chunk, dtype=q.dtype, device=q.device).expand_as(before)
    solve = torch.linalg.solve_triangular((k @ k_joins.mT) * before, unit, upper=False, unitriangular=True)
    # Both memories are one of twice as many rows, and so are keys and queries, by how much of each is left for them.
    ask, read = (_twice(x, a_in, c) for x, c in ((k, met), (q, through)))
    write = _twice(k_joins, reach[..., -1, :, None], moving.pairs[..., -1, :, None])
    keep, move, hold = (x[..., -1, 0] for x in (a_in, through, m_in))
    turn = torch.stack([keep, move, torch.zeros_like(keep), hold], dim=-1).unflatten(-1, (2, 2))
    heads, (d, width) = q.shape[:2], memory.stored.shape[-2:]
    state, states, all_u = torch.cat(memory, dim=2).flatten(0, 1), [], []
    ends = (x.flatten(0, 1).unbind(1) for x in (v, ask, solve, write.mT, turn.expand(*heads, -1, -1, -1)))
    for new, key, inverse, joins_by, turned in zip(*ends, strict=True):
        states.append(state)
        all_u.append(u := inverse @ torch.baddbmm(new, key, state, alpha=-1))
        left = turned @ state.unflatten(1, (2, d)).flatten(2)
        state = torch.baddbmm(left.unflatten(2, (d, width)).flatten(1, 2), joins_by, u)
    u, states = (torch.stack(x, dim=1).unflatten(0, heads) for x in (all_u, states))
    o = add_product(((q @ k_joins.mT) * reach) @ u, read, states)
    return unchunked(o, t), MomentumState(*state.unflatten(0, heads).split(d, dim=2))


def _twice(
    x: Float[Tensor, "b h n t d"], first: Float[Tensor, "b h n t 1"], second: Float[Tensor, "b h n t 1"]
) -> Float[Tensor, "b h n t e"]:
    """x times each of two factors, side by side."""
    return (x[..., None, :] * torch.cat([first, second], dim=-1)[..., None]).flatten(-2)


class MomentumAttention(GatedOutput, StateAttention):
    """A delta rule whose corrections gather momentum before they are written.

    Rule: N_t = m_t N_{t-1} + n_t k_t (v_t - a_t S_{t-1}^T k_t)^T, S_t = a_t S_{t-1} + b_t N_t, o_t = S_t^T (q_t - e
    k_t) / sqrt(d). Of n = 1 + tanh(w_n . x / sqrt(c)) and r = n g follow a = exp(-A softplus(.)) / (1 + r^2) and b =
    sigmoid(w_b . x) r^2 / (1 + r^2), so that the more is written the more is forgotten; m = exp(-M softplus(.)) is at
    least e^-2. q and k have length one. Each token reads, corrects and writes two memories: 8,192 tokens train 2.3 to
    2.5 times as fast as with causal SDPA.

    Source: Momentum DeltaNet, arXiv 2605.05838, and MomentumDeltaNet of flash-linear-attention. There A, M, g and e
    start at random, up to 16, 16, 4 and 1; here they are spaced evenly, A and M from 1, g from 0.5, e from 0. Where we
    differ: theirs scales q - e k to length one, from q and k as they are; its values are twice as wide as its keys.
    """

    documents = mixes_rows = True
    conv: Natural = option(default=4, doc="Width of a short convolution on queries, keys and values; 0: none.")
    chunk: Count = option(default=32, doc="Tokens of one matrix product while training; changes speed, not results.")

    published: ClassVar[Starts] = {"log_factor": log_of_uniform(0, 4), "correct": uniform(0, 1)}
    traits = Traits("signed", "constant")

    def setup(self) -> None:
        super().setup()
        self.qkv = QKV(self, conv=self.conv)
        self.decay, self.momentum = (
            ScalarDecay(d_model=self.d_model, n_heads=self.n_heads, head_dim=self.head_dim) for _ in range(2)
        )
        self.to_joins, self.to_writes = (nn.Linear(self.d_model, self.n_heads, bias=False) for _ in range(2))
        self.log_factor = nn.Parameter(torch.linspace(0.5, 4.0, self.n_heads).log())
        self.correct = nn.Parameter(torch.linspace(0.0, 1.0, self.n_heads))
        self.output_norm = HeadNorm(self.value_dim)
        self.build_output(self.n_heads)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, tail = self.qkv(x, tail, start)
        work = torch.promote_types(v.dtype, torch.float32)
        q, k = self.position.rotate(q.to(work), start), self.position.rotate_keys(k.to(work), start)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        q = (q - self.correct[:, None, None] * k) * self.head_dim**-0.5
        decay, momentum = self.decay.project(x), self.momentum.project(x)
        assert decay is not None and momentum is not None
        joins = 1 + (self.to_joins(x).to(work) * self.d_model**-0.5).tanh().transpose(1, 2)
        ratio = (joins * self.log_factor.exp()[:, None]).square()
        writes = self.to_writes(x).to(work).sigmoid().transpose(1, 2) * ratio / (1 + ratio)
        own = Rates(*(part[..., None] for part in (momentum.clamp(min=LEAST), joins, writes)))
        return Heads(q, k, v, tail, log_decay=decay - ratio.log1p(), gate=self.gate.project(x), own=own)

    def empty(self, batch: int, value_dim: int) -> MomentumState:
        return MomentumState(*(self.zeros(batch, self.n_heads, self.head_dim, value_dim) for _ in range(2)))

    def empty_tail(self, batch: int) -> Tensor | None:
        return self.qkv.empty_tail(batch)

    def scan(self, heads: Heads, memory: MomentumState, start: int) -> tuple[Float[Tensor, "b h t v"], MomentumState]:
        """Run the recurrence over the tokens of `heads`, in float32 at least; used by training, maps and decoding."""
        if not heads.v.size(2):
            return heads.v, memory
        assert heads.log_decay is not None
        work = memory.stored.dtype
        with full_precision(heads.q.device):
            q, k, v, decay = (part.to(work) for part in (*heads[:3], heads.log_decay))
            rates = Rates(*(part.to(work) for part in heads.own))
            starts = None if heads.documents is None else heads.documents.starts
            o, memory = with_momentum(q, k, v, decay, rates, memory, self.chunk, starts)
            return o.to(heads.v.dtype), memory

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(self.gate(self.output_norm(o), heads.gate, heads.v)))
