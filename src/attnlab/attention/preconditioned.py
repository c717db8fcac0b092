"""Delta rules that write a channel of a key the less, the more was written along it lately."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attnlab.attention.borders import Borders
from attnlab.attention.chunk_decay import ChunkDecay, add_product
from attnlab.attention.decay import ScalarDecay
from attnlab.attention.documents import Start
from attnlab.attention.feature_map import FeatureMap, UnitLength
from attnlab.attention.heads import Heads
from attnlab.attention.precision import full_precision
from attnlab.attention.published import ALIKE, Starts, exactly
from attnlab.attention.recurrent import Matrix, RecurrentAttention
from attnlab.attention.scan import chunks, states_between, unchunked
from attnlab.attention.signature import with_signature
from attnlab.attention.uncompiled import uncompiled
from attnlab.attention.write import DeltaWrite, Erasure, Write
from attnlab.options import Count, Positive, option, slot


class Curvature(NamedTuple):
    """How strongly a token counts in the curvature, and how much of the curvature before it remains, by its log."""

    counts: Float[Tensor, "b h t 1"]
    log_left: Float[Tensor, "b h t 1"]


def decayed_sums(
    x: Float[Tensor, "b h t d"],
    log_decay: Float[Tensor, "b h t 1"],
    total: Float[Tensor, "b h 1 d"],
    chunk: int,
    starts: Bool[Tensor, "b t"] | None,
) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b h 1 d"]]:
    """A_t = g_t A_{t-1} + x_t, g = exp(log_decay), in chunks of tokens; from 0 at each of the `starts`."""
    t = x.size(2)
    if t == 1 and starts is None:
        return (total := torch.addcmul(x, total, log_decay.exp())), total
    chunk = min(chunk, t)
    x, log_decay = (chunks(part, -t % chunk, chunk) for part in (x, log_decay))
    borders = None if starts is None else Borders.of(starts, -t % chunk, chunk, x.dtype)
    chunk_decay = ChunkDecay(log_decay, borders, x)
    joins = chunk_decay.written(x).joins.sum(dim=-2, keepdim=True)
    totals, total = states_between(joins, chunk_decay, total)
    assert chunk_decay.enter is not None
    return unchunked(add_product(chunk_decay.enter * totals, chunk_decay.pairs, x), t), total


class Multiplier(torch.autograd.Function):
    """exp(-span z / (1 + |z|)), z = log(curve + 1e-6) - center, in a third of the passes that autograd makes of it.

    Double differentiation is refused.
    """

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(curve: Tensor, center: Tensor, span: float) -> tuple[Tensor, Tensor]:
        z = curve.add(1e-6).log_().sub_(center)
        room = z.abs().add_(1)
        return (z / room).mul_(-span).exp_(), room

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        curve, _, ctx.span = inputs
        ctx.save_for_backward(curve, *output)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, _: None) -> tuple[Tensor, Tensor, None]:
        curve, multiplier, room = ctx.saved_tensors
        to_z = (slope * multiplier).mul_(-ctx.span).div_(room).div_(room)
        return to_z / curve.add(1e-6), -to_z.sum(dim=(0, 2, 3), keepdim=True)[0], None


class PreconditionedAttention(RecurrentAttention):
    """A delta rule whose written key is divided by how curved its loss is along each channel.

    Rule: S_t = a_t S_{t-1} + beta (m * k) (v - a_t S_{t-1}^T k)^T, m = r^-s, s = z / (1 + |z|), z = log(A_t + 1e-6) -
    e, A_t = g_t A_{t-1} + c_t k_t * k_t. So m lies between 1 / r and r, r being `range`. c = sigmoid(W_c x), g is a
    decay per head as in Mamba-2, and e one number per head, which starts at -0.2.

    Source: arXiv 2604.21100 and flash-linear-attention. Where we differ: decays start evenly spaced (see the slot
    `decay`), theirs at random, those per channel with a bias of 0.
    """

    documents = mixes_rows = True
    withdrawn = {"feature_map", "write", "writes"}
    feature_map: FeatureMap = slot(default=UnitLength, doc="The map phi of queries and keys.")
    write: Write = slot(default=DeltaWrite, doc="What is added to the memory.")
    chunk: Count = option(default=64, doc="Tokens of one matrix product while training; changes speed, not results.")
    range: Positive = option(default=1.5, doc="The most that a channel is multiplied or divided by.")

    @property
    def published(self) -> Starts:
        return {"center": ALIKE} | ({"decay.bias": exactly(0.0)} if self.decay.per_channel else {})

    def setup(self) -> None:
        super().setup()
        self.to_count = nn.Linear(self.d_model, self.n_heads, bias=False)
        self.curvature_decay = ScalarDecay(d_model=self.d_model, n_heads=self.n_heads, head_dim=self.head_dim)
        self.center = nn.Parameter(torch.full((self.n_heads,), -0.2))

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        count, decay = self.to_count(x).sigmoid().transpose(1, 2), self.curvature_decay.project(x)
        assert decay is not None
        return super().project(x, start, tail)._replace(own=Curvature(count[..., None], decay[..., None]))

    @uncompiled  # as in scan.py
    def scan(  # type: ignore[override]
        self, heads: Heads, memory: tuple[Matrix, Tensor], start: int
    ) -> tuple[Float[Tensor, "b h t v"], tuple[Matrix, Tensor]]:
        """The delta rule after its keys were scaled."""
        matrix, curvature = memory
        if not heads.v.size(2):
            return heads.v, memory
        with full_precision(heads.q.device):
            k, count = heads.k.to(curvature.dtype), heads.own.counts.to(curvature.dtype)
            decay = heads.own.log_left.to(count.dtype)
            curve, curvature = decayed_sums(count * k.square(), decay, curvature, self.chunk, self.starts(heads))
            center = self.center.to(k.dtype)[:, None, None]
            scaled = k * Multiplier.apply(curve, center, math.log(self.range))[0]
        o, matrix = super().scan(heads._replace(k=scaled, own=Erasure(k)), matrix, start)
        return o, (matrix, curvature)

    def empty(self, batch: int, value_dim: int) -> tuple[Matrix, Tensor]:  # type: ignore[override]
        return super().empty(batch, value_dim), self.zeros(batch, self.n_heads, 1, self.head_dim)
