"""MesaNet: a memory that is, at each token, the least-squares fit of all values by all keys."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.chunk_decay import ChunkDecay
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads
from attnlab.attention.log_scale import exceeds
from attnlab.attention.norm import HeadNorm
from attnlab.attention.position_bias import softplus_inverse
from attnlab.attention.precision import full_precision
from attnlab.attention.projection import QKV
from attnlab.attention.published import ALIKE, Starts
from attnlab.attention.scan import chunks, states_between, unchunked
from attnlab.attention.state import StateAttention
from attnlab.attention.traits import Traits
from attnlab.attention.uncompiled import uncompiled
from attnlab.options import Count, Natural, option

LEAST = 0.25  # of the ridge
Rows = Float[Tensor, "b h n t d"]


class Moments(NamedTuple):
    """What is kept of the tokens: H = sum b k k^T and G = sum b k v^T, both decayed."""

    keys: Float[Tensor, "b h d d"]
    values: Float[Tensor, "b h d v"]


class NormalEquations(NamedTuple):
    """H + diag(ridge) of every token in every chunk, as what it makes of a vector per token."""

    fall: Float[Tensor, "b h n t 1"]  # of what stood before the chunk
    before: Float[Tensor, "b h n d d"]
    k: Rows
    weights: Float[Tensor, "b h n t t"]  # of each token in the H of each later one
    ridge: Float[Tensor, "h 1 1 d"]

    def times(self, x: Rows) -> Rows:
        return (x * self.fall) @ self.before + ((x @ self.k.mT) * self.weights) @ self.k + self.ridge * x


def conjugate_gradients(times: Callable[[Rows], Rows], right: Rows, steps: int) -> Rows:
    """x so that times(x) is `right`, for every token apart; fewer steps where float has no more digits to win."""
    unit = right.abs().amax(dim=-1, keepdim=True)
    r = p = right / unit.masked_fill(unit == 0, 1.0)
    x, size = torch.zeros_like(r), r.square().sum(dim=-1, keepdim=True)
    enough = size * torch.finfo(r.dtype).eps ** 2
    for _ in range(steps):
        if r.device.type != "meta" and not exceeds(size - enough, 0.0):
            break
        along, open_ = times(p), size > enough
        rate = torch.where(open_, size / (p * along).sum(dim=-1, keepdim=True), 0.0)
        x, r = x + rate * p, r - rate * along
        now = r.square().sum(dim=-1, keepdim=True)
        p, size = r + torch.where(open_, now / size, 0.0) * p, now
    return x * unit


class SolvedSystem(torch.autograd.Function):
    """x, the solution for a right side of which only the rest is handed on, q - M x: dx = M^-1 d(q - M x)."""

    @staticmethod
    def forward(ctx: Any, rest: Rows, x: Rows, steps: int, *equations: Tensor) -> Rows:
        ctx.steps = steps
        ctx.save_for_backward(*equations)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Rows) -> Any:
        equations = NormalEquations(*ctx.saved_tensors)
        return conjugate_gradients(equations.times, slope, ctx.steps), None, None, *[None] * len(equations)


class MesaAttention(StateAttention):
    """Answers each query by the linear map that fits all values seen so far best, in the sense of least squares.

    Rule: H_t = a_t H_{t-1} + b_t k_t k_t^T, G_t = a_t G_{t-1} + b_t k_t v_t^T, o_t = G_t^T (H_t + diag(l))^{-1} q_t.
    a = sigmoid(W x + c), b = sigmoid(W x + c'), l = 1/4 + softplus(lambda), one per channel. Queries and keys have
    length one, heads are normalised, no gate follows. The system of a token is solved by at most `steps` steps of
    conjugate gradients, for all tokens of all chunks at once, forward and backward; each costs about as much as linear
    attention: 8,192 tokens train about as fast as with causal SDPA.

    Source: arXiv 2506.05233, with 30 steps and a convolution of 4 on queries and keys. l starts at 1, c and c' at 0.
    Where we differ: `conv` also mixes values; gains of the norm start at 0.1, there at 1; no more steps are taken than
    float has digits for.
    """

    documents = True
    conv: Natural = option(default=0, doc="Width of a short convolution on queries, keys and values; 0: none.")
    steps: Count = option(default=30, doc="The most steps that solve the system of a token.")
    chunk: Count = option(default=64, doc="Tokens of one matrix product while training; changes speed, not results.")
    published: ClassVar[Starts] = dict.fromkeys(("decay_bias", "beta_bias", "ridge"), ALIKE)
    traits = Traits("signed", "constant")

    def setup(self) -> None:
        super().setup()
        self.qkv = QKV(self, conv=self.conv)
        self.to_decay, self.to_beta = (nn.Linear(self.d_model, self.n_heads, bias=False) for _ in range(2))
        self.decay_bias, self.beta_bias = (nn.Parameter(torch.zeros(self.n_heads)) for _ in range(2))
        self.ridge = nn.Parameter(torch.full((self.n_heads, self.head_dim), softplus_inverse(1 - LEAST)))
        self.norm = HeadNorm(self.value_dim)
        self.to_out = nn.Linear(self.n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, tail = self.qkv(x, tail, start)
        work = torch.promote_types(x.dtype, torch.float32)
        q, k = self.position.rotate(q.to(work), start), self.position.rotate_keys(k.to(work), start)
        log_decay = F.logsigmoid((self.to_decay(x) + self.decay_bias).to(work)).mT
        beta = (self.to_beta(x) + self.beta_bias).to(work).sigmoid().mT
        return Heads(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, tail, log_decay=log_decay, beta=beta)

    @uncompiled  # as in scan.py
    def scan(self, heads: Heads, memory: Moments, start: int) -> tuple[Float[Tensor, "b h t v"], Moments]:
        t = heads.v.size(2)
        if not t:
            return heads.v, memory
        assert heads.log_decay is not None and heads.beta is not None
        with full_precision(heads.q.device):
            chunk, work = min(self.chunk, t), memory.keys.dtype
            parts = (*heads[:3], heads.log_decay[..., None], heads.beta[..., None])
            q, k, v, decay, beta = (chunks(x.to(work), -t % chunk, chunk) for x in parts)
            chunk_decay, sizes = ChunkDecay(decay, None, q), (k.size(-1), v.size(-1))
            both = chunk_decay.written(beta * k).joins.mT @ torch.cat([k, v], dim=-1)
            before, after = states_between(both, chunk_decay, torch.cat(memory, dim=-1))
            (keys, values), (last_keys, last_values) = before.split(sizes, dim=-1), after.split(sizes, dim=-1)
            ridge = (F.softplus(self.ridge.to(work)) + LEAST)[:, None, None]
            weights = chunk_decay.pairs * beta.mT
            x = self.solve(q, NormalEquations(chunk_decay.entering(torch.ones_like(beta)), keys, k, weights, ridge))
            o = chunk_decay.entering(x) @ values + ((x @ k.mT) * weights) @ v
            return unchunked(o, t).to(heads.v.dtype), Moments(last_keys.clone(), last_values.clone())

    def solve(self, q: Rows, equations: NormalEquations) -> Rows:
        """(H + diag(l))^{-1} q, with gradients of all that it is made of."""
        still = NormalEquations(*(part.detach() for part in equations))
        x = conjugate_gradients(still.times, q.detach(), self.steps)
        solution: Rows = SolvedSystem.apply(q - equations.times(x), x, self.steps, *still)
        return solution

    def empty(self, batch: int, value_dim: int) -> Moments:
        d = self.head_dim
        return Moments(self.zeros(batch, self.n_heads, d, d), self.zeros(batch, self.n_heads, d, value_dim))

    def empty_tail(self, batch: int) -> Tensor | None:
        return self.qkv.empty_tail(batch)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(self.norm(o)))
