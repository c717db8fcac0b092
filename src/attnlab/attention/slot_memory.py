"""Memories of a few slots, which a query reads by a softmax over them: attention whose keys and values are made."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.chunk_decay import ChunkDecay, add_product
from attnlab.attention.decay import ScalarDecay
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads, split_heads
from attnlab.attention.norm import HeadNorm, RMSNorm
from attnlab.attention.normalizer import SharpSoftmax
from attnlab.attention.precision import full_precision
from attnlab.attention.projection import QKV
from attnlab.attention.scan import chunks, states_between, unchunked
from attnlab.attention.state import StateAttention
from attnlab.attention.traits import Traits
from attnlab.attention.uncompiled import uncompiled
from attnlab.options import Count, OptionError, option


class SlotMemory(NamedTuple):
    """A key and a value for each slot; `total` is the logarithm of the weights of all tokens so far, if these count."""

    keys: Float[Tensor, "b h m d"]
    values: Float[Tensor, "b h m v"]
    total: Float[Tensor, "b h m"] | None = None


class Keeping(NamedTuple):
    """The logarithm of what each slot keeps at each token; the rest is replaced by the token."""

    log_kept: Float[Tensor, "b h t m"]


def through_slots(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t v"],
    log_kept: Float[Tensor, "b h t m"],
    write: Float[Tensor, "b h t m"],
    memory: SlotMemory,
    scale: float,
    chunk: int,
) -> tuple[Float[Tensor, "b h t v"], SlotMemory]:
    """K_t = a_t * K_{t-1} + w_t k_t^T, V likewise of v, o_t = V_t^T softmax(scale * K_t q_t), in chunks of tokens.

    a and w are one number per slot and token, log_kept is log a.
    """
    t, widths = q.size(2), (k.size(-1), v.size(-1))
    q = q if scale == 1 else q * scale
    if t == 1:
        decay, write = log_kept.exp().mT, write.mT
        memory = SlotMemory(*(torch.addcmul(x * decay, write, new) for x, new in zip(memory[:2], (k, v), strict=True)))
        return SharpSoftmax.apply(q @ memory.keys.mT) @ memory.values, memory
    chunk = min(chunk, t)
    q, k, v, log_kept, write = (chunks(x, -t % chunk, chunk) for x in (q, k, v, log_kept, write))
    chunk_decay = ChunkDecay(log_kept, None, q)
    shares = chunk_decay.written(write)
    joins = shares.joins.mT @ torch.cat([k, v], dim=-1)
    before, after = states_between(joins, chunk_decay, torch.cat([memory.keys, memory.values], dim=-1))
    keys, values = before.split(widths, dim=-1)
    weights = SharpSoftmax.apply(chunk_decay.columns(q @ k.mT, shares, q @ keys.mT))
    [[within]], [read] = chunk_decay.meet([weights], [shares])
    o = unchunked(add_product(within @ v, read, values), t)
    keys, values = after.split(widths, dim=-1)
    return o, SlotMemory(keys.clone(), values.clone())


class SlotAttention(StateAttention, ABC):
    """Keeps a key and a value in each of a few slots, and reads them as softmax attention reads tokens.

    Rule: K_t = diag(a_t) K_{t-1} + (1 - a_t) k_t^T, V_t likewise of v_t, o_t = V_t^T softmax(scale * K_t q_t). What a
    slot keeps of itself, a_t, a subclass says. Training runs in chunks, once for the scores and once for what is read.
    """

    documents = True
    slots: Count = option(default=None, null="head_dim", doc="Slots of each head.")
    chunk: Count = option(default=64, doc="Tokens of one matrix product while training; changes speed, not results.")
    traits = Traits("sub_probability", "constant")

    def setup(self) -> None:
        super().setup()
        self.slots = self.slots or self.head_dim
        self.scale = 1.0
        self.qkv = QKV(self)

    @abstractmethod
    def decays(self, heads: Heads, memory: SlotMemory) -> tuple[Tensor, Tensor, Tensor | None]:
        """log a_t and 1 - a_t of each token, (b, h, t, m), and what `total` is after the last."""

    @uncompiled  # as in scan.py
    def scan(self, heads: Heads, memory: SlotMemory, start: int) -> tuple[Float[Tensor, "b h t v"], SlotMemory]:
        if not heads.v.size(2):
            return heads.v, memory
        with full_precision(heads.q.device):
            q, k, v = (part.to(memory.keys.dtype) for part in heads[:3])
            log_kept, write, total = self.decays(heads, memory)
            o, memory = through_slots(q, k, v, log_kept, write, memory, self.scale, self.chunk)
            return o.to(heads.v.dtype), memory._replace(total=total)

    def empty(self, batch: int, value_dim: int) -> SlotMemory:
        of_each = (batch, self.n_heads, self.slots)
        return SlotMemory(self.zeros(*of_each, self.head_dim), self.zeros(*of_each, value_dim))


class GatedSlotAttention(SlotAttention):
    """Each token replaces a share of each slot, the larger the more the slot forgets.

    Rule: K_t = diag(a_t) K_{t-1} + (1 - a_t) k_t^T, o_t = V_t^T softmax(K_t q_t), log a_t = logsigmoid(W x_t) / 8. V
    is written as K is. Queries, keys and values go through silu, scores have no scale, and what is read goes through
    silu and a norm over all heads. No convolution, no position of its own (position=none as published).

    Source: gated slot attention, arXiv 2409.07146. Where we differ: it starts with 64 slots, here `slots`. Scores have
    no scale: where tokens are as large as 10^4 they lie 10^8 apart, and near ties may fall otherwise in float32.
    """

    slowness = 8.0

    def setup(self) -> None:
        super().setup()
        self.build_decay()
        self.norm = HeadNorm(self.n_heads * self.value_dim)
        self.to_out = nn.Linear(self.n_heads * self.value_dim, self.d_out, bias=False)

    def build_decay(self) -> None:
        """Build what `log_kept` reads."""
        self.to_keep = nn.Linear(self.d_model, self.n_heads * self.slots, bias=False)

    def log_kept(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t m"]:
        """The logarithm of what each slot keeps, in float32 at least."""
        work = torch.promote_types(x.dtype, torch.float32)
        return F.logsigmoid(split_heads(self.to_keep(x), self.n_heads).to(work)) / self.slowness

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys before they rotate."""
        return F.silu(q), F.silu(k)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, _ = self.qkv(x, tail)
        work = torch.promote_types(x.dtype, torch.float32)
        q, k = self.prepare(q.to(work), k.to(work))
        q, k = self.position.rotate(q, start), self.position.rotate_keys(k, start)
        return Heads(q, k, F.silu(v), own=Keeping(self.log_kept(x)))

    def decays(self, heads: Heads, memory: SlotMemory) -> tuple[Tensor, Tensor, None]:
        log_kept = heads.own.log_kept.to(memory.keys.dtype)
        return log_kept, -log_kept.expm1(), None

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(self.norm(F.silu(join_heads(o))))


class RavenAttention(GatedSlotAttention):
    """Each token writes into the few slots that a router chooses for it, and leaves the others as they are.

    Rule: log a_t = -exp(A) softplus(w . x_t + b) r_t, r_t = top-k of sigmoid(W x_t), summing to one. The rest is gated
    slot attention, with queries and keys of unit root-mean-square after silu, each with a gain that starts at 1. A and
    b start as in the scalar decay.

    Source: Raven, github.com/goombalab/raven (2026); its memory is that of arXiv 2409.07146. Where we differ: it starts
    with 64 slots and a `topk` of 32; its router adds Gumbel noise while training, ours none.
    """

    topk: Count = option(default=None, null="half of the slots", doc="Slots that a token writes into.")
    traits = Traits("sub_probability", "constant", discontinuous=True)

    def build_decay(self) -> None:
        self.topk = self.topk or max(1, self.slots // 2)
        if self.topk > self.slots:
            raise OptionError("topk", self.topk, f"must be at most slots ({self.slots})")
        self.decay = ScalarDecay(d_model=self.d_model, n_heads=self.n_heads, head_dim=self.head_dim)
        self.to_router = nn.Linear(self.d_model, self.n_heads * self.slots, bias=False)
        self.q_norm, self.k_norm = RMSNorm(self.head_dim), RMSNorm(self.head_dim)

    def log_kept(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t m"]:
        rate = self.decay.project(x)
        assert rate is not None
        route = split_heads(self.to_router(x), self.n_heads).to(rate.dtype)
        chosen, slots = route.topk(self.topk, dim=-1)
        share = chosen.sigmoid()
        share = share / (share.sum(dim=-1, keepdim=True) + 1e-9)
        return rate[..., None] * torch.zeros_like(route).scatter(-1, slots, share)

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        q, k = super().prepare(q, k)
        return self.q_norm(q), self.k_norm(k)
