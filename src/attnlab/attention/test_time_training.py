"""Test-time training: the memory is a small model, and reading a sequence trains it."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Growth, HeadedAttention, Heads, MapKind, full_precision, join_heads
from attnlab.attention.projection import QKV
from attnlab.attention.shared import Shared
from attnlab.errors import UsageError
from attnlab.position import Position

EPS = 1e-6  # added to the variance of an inner prediction, as in the paper's code


class InnerModel(NamedTuple):
    """What `step` keeps, in float32 at least; the last row of each matrix is the bias of the inner model."""

    weight: Float[Tensor, "b h e v"]  # as it was when the running mini-batch began
    update: Float[Tensor, "b h e v"]  # what the running mini-batch has added up so far
    seen: int


class TTTAttention(HeadedAttention):
    """Its memory is a small linear model per head, trained by gradient descent while the sequence is read.

    The inner model f(k) = k + norm(k W + b) is to reproduce v from k. Tokens come in mini-batches; each takes the
    gradient of |f(k) - v|^2 / 2 at the W with which its mini-batch began, times a learned rate, so that
    W_t = W_0 - sum_{s <= t} eta_s grad_s, o_t = f(q_t; W_t), where eta_s = `rate` * sigmoid(w . x_s) / d. Within a
    mini-batch all tokens are handled by matrix products (the paper's dual form). The norm makes the gradient depend on
    W and the output on a sum of values in a way that is not linear: there is no map to show.

    Source: arXiv 2407.04620 (TTT-Linear). Where we differ: W_0 starts as the identity; the rate of the i-th token of a
    mini-batch has no factor of 1/i plus a learned number; the output's own norm and gate are left out.
    """

    hooks = frozenset({"rotate"})
    map_kind: MapKind = "none"
    growth: Growth = "constant"

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        head_dim: int | None = None,
        d_out: int | None = None,
        minibatch: int = 16,
        rate: float = 1.0,
        position: Callable[..., Position] = Position,
        layer: int = 0,
        n_layers: int = 1,
        context: int = 1024,
    ) -> None:
        super().__init__(d_model, n_heads=n_heads, head_dim=head_dim, d_out=d_out, layer=layer, n_layers=n_layers)
        if minibatch < 1:
            raise UsageError(f"minibatch ({minibatch}) must be at least 1")
        if not rate > 0:
            raise UsageError(f"rate ({rate}) must be greater than 0")
        self.minibatch, self.rate = minibatch, rate
        self.position = self.honoured(position, context)
        self.qkv = QKV(self, bias=False, conv=0)
        self.to_rate = nn.Linear(d_model, n_heads)
        self.weight = nn.Parameter(torch.eye(self.head_dim + 1, self.head_dim).repeat(n_heads, 1, 1))
        self.gain = nn.Parameter(torch.ones(n_heads, 1, self.head_dim))
        self.offset = nn.Parameter(torch.zeros(n_heads, 1, self.head_dim))
        self.to_out = nn.Linear(n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, extra = self.qkv(x, tail)
        extra["rate"] = self.to_rate(x).mT[..., None]
        return Heads(self.position.rotate(q, start), self.position.rotate_keys(k, start), v, extra)

    @torch.compiler.disable  # as in scan.py: a loop over mini-batches
    def read(self, heads: Heads, inner: InnerModel) -> tuple[Float[Tensor, "b h n v"], InnerModel]:
        """What the inner model answers to each query while it learns from the keys and values, and what it became."""
        if not heads.q.size(2):
            return heads.v, inner
        with full_precision(heads.q.device):
            work = inner.weight.dtype
            q, k, v = (part.to(work) for part in heads[:3])
            rate = self.rate * heads.extra["rate"].to(work).sigmoid() / self.head_dim
            first = self.minibatch - inner.seen % self.minibatch  # what the running mini-batch still lacks
            bounds = [0, *range(first, q.size(2), self.minibatch), q.size(2)]
            out = []
            for a, b in itertools.pairwise(bounds):
                o, inner = self.learn(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], rate[:, :, a:b], inner)
                out.append(o)
            return torch.cat(out, dim=2).to(heads.v.dtype), inner

    def learn(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b h n d"],
        v: Float[Tensor, "b h n v"],
        rate: Float[Tensor, "b h n 1"],
        inner: InnerModel,
    ) -> tuple[Float[Tensor, "b h n v"], InnerModel]:
        """Tokens of one mini-batch, or of a part of it."""
        gain, offset = self.gain.to(q.dtype), self.offset.to(q.dtype)
        q1, k1 = (F.pad(part, (0, 1), value=1.0) for part in (q, k))  # a column of ones reads the bias
        z = k1 @ inner.weight
        spread = (z.var(dim=-1, unbiased=False, keepdim=True) + EPS).sqrt()
        unit = (z - z.mean(dim=-1, keepdim=True)) / spread
        error = (unit * gain + offset + k - v) * gain
        along = (error * unit).mean(dim=-1, keepdim=True)
        gradient = rate * (error - error.mean(dim=-1, keepdim=True) - unit * along) / spread
        answer = q1 @ (inner.weight + inner.update) - (q1 @ k1.mT).tril() @ gradient
        o = q + F.layer_norm(answer, answer.shape[-1:], eps=EPS) * gain + offset
        update, seen = inner.update - k1.mT @ gradient, inner.seen + q.size(2)
        if seen % self.minibatch:
            return o, InnerModel(inner.weight, update, seen)
        return o, InnerModel(inner.weight + update, torch.zeros_like(update), seen)

    def untrained(self, batch: int) -> InnerModel:
        """The inner model before the first token."""
        work = torch.promote_types(self.anchor.dtype, torch.float32)
        weight = self.weight.to(work).expand(batch, -1, -1, -1)
        return InnerModel(weight, torch.zeros_like(weight, memory_format=torch.contiguous_format), 0)

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        """Unlike any other family's, not linear in the values."""
        return self.read(heads, self.untrained(heads.v.size(0)))[0]

    def weights(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> None:
        return None

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(o))

    def init_state(self, batch: int, max_len: int) -> InnerModel:
        inner = self.untrained(batch)
        return inner._replace(weight=inner.weight.detach().clone(memory_format=torch.contiguous_format))

    def step(
        self, x: Float[Tensor, "b n c"], state: InnerModel, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], InnerModel]:
        heads = self.project(x, state.seen)
        o, state = self.read(heads, state)
        return self.merge(o, heads), state
