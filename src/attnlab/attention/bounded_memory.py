"""Attention with bounded-memory control: slots that are means of all tokens so far."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.documents import Start
from attnlab.attention.gate import Gate, Swish
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.log_scale import exceeds
from attnlab.attention.norm import HeadNorm
from attnlab.attention.output import GatedOutput
from attnlab.attention.precision import running_sum
from attnlab.attention.slot_memory import SlotAttention, SlotMemory
from attnlab.attention.traits import Traits
from attnlab.options import slot

RANGE = 80.0  # in nats, of what float32 holds beside its largest term


class Control(NamedTuple):
    """The logarithm of each token's weight in each slot."""

    logits: Float[Tensor, "b h t m"]


def log_sums(x: Float[Tensor, "b h t m"], before: Float[Tensor, "b h 1 m"]) -> Float[Tensor, "b h t m"]:
    """The logarithm of e^before + e^x_0 + ... + e^x_t; of plain sums where float32 holds all terms, which is faster."""
    with torch.no_grad():
        top = torch.maximum(x.amax(dim=2, keepdim=True), before)
    if exceeds(top - x.amin(dim=2, keepdim=True), RANGE):
        x = x if x.device.type == "mps" else x.double()  # of which differences are taken
        return torch.logaddexp(before.to(x.dtype), x.logcumsumexp(dim=2))
    return (running_sum((x - top).exp(), dim=2) + (before - top).exp()).log() + top


class BoundedMemoryAttention(GatedOutput, SlotAttention):
    """Each slot holds a mean of all keys and values so far, in which each token has a weight of its own choice.

    Rule: K_t = sum_{j<=t} e^{s_j} k_j^T / sum_{j<=t} e^{s_j}, o_t = V_t^T softmax(K_t q_t / sqrt(d)), s_t = W x_t. V is
    made as K is, and what a slot keeps at a token is sigmoid(log sum_{j<t} e^{s_j} - s_t). Each head's output is
    normalised and gated by the token. No convolution.

    Source: attention with bounded-memory control (ABC), arXiv 2110.02488; layer as in flash-linear-attention. Where we
    differ: there s is held within 32 of 0, and queries and keys are half as wide as values.
    """

    gate: Gate = slot(default=Swish, doc="What each head's output is multiplied by.")
    traits = Traits("probability", "constant")

    def setup(self) -> None:
        super().setup()
        self.scale = self.head_dim**-0.5
        self.to_control = nn.Linear(self.d_model, self.n_heads * self.slots, bias=False)
        self.norm = HeadNorm(self.value_dim)
        self.build_output(self.n_heads)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, _ = self.qkv(x, tail)
        q, k = self.position.rotate(q, start), self.position.rotate_keys(k, start)
        control = Control(split_heads(self.to_control(x), self.n_heads))
        return Heads(q, k, v, gate=self.gate.project(x), own=control)

    def decays(self, heads: Heads, memory: SlotMemory) -> tuple[Tensor, Tensor, Tensor]:
        assert memory.total is not None
        logits = heads.own.logits.to(memory.keys.dtype)
        earlier = memory.total[:, :, None]
        totals = log_sums(logits, earlier)
        log_decay = torch.cat([earlier, totals[:, :, :-1]], dim=2) - totals
        # A slot that holds nothing has nothing to keep or to lose.
        log_kept = log_decay.masked_fill(log_decay.isneginf(), 0.0).to(logits.dtype)
        return log_kept, (logits - totals).to(logits.dtype).exp(), totals[:, :, -1].to(logits.dtype, copy=True)

    def empty(self, batch: int, value_dim: int) -> SlotMemory:
        memory = super().empty(batch, value_dim)
        return memory._replace(total=torch.full_like(memory.keys[..., 0], -torch.inf))

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return super().merge(self.norm(o), heads)
