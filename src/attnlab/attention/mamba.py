"""Mamba-2's layer as published: what stands around its memory, and not the memory alone."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.decay import Decay, StepDecay
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads
from attnlab.attention.norm import EPS, HEAD_GAIN
from attnlab.attention.published import ALIKE, Starts, exactly
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.options import Positive, option, slot


class Mamba2Attention(RecurrentAttention):
    """Mamba-2's layer: a state space read like attention, beside which each value takes a way of its own.

    Rule: S_t = a_t S_{t-1} + D_t k_t v_t^T, o_t = S_t^T q_t + e v_t, y_t = W_o (rms(o_t * silu(W_z x_t)) * g). Its C, B
    and x are the queries, keys and values, which a short convolution has mixed; its groups are `n_key_heads`, its state
    is `head_dim` wide, its heads are `value_dim` wide. e is one number per head. The norm goes over all values that
    share a head of keys.

    Source: arXiv 2405.21060, and Mamba2Mixer of Hugging Face transformers. Where we differ: gains of the norm start at
    0.1, there at 1.
    """

    documents = True
    published: ClassVar[Starts] = {"gain": exactly(1.0), "skip": ALIKE}
    withdrawn = {"feature_map", "write", "writes", "output_norm", "gate"}
    decay: Decay = slot(default=StepDecay, doc="How much of the memory remains at each token.")
    norm_eps: Positive = option(default=None, null="2^-23", doc="Added to the mean square of the gated output.")

    def setup(self) -> None:
        super().setup()
        self.feature_map.query_scale = 1.0
        width = self.n_heads * self.value_dim
        self.to_gate = nn.Linear(self.d_model, width, bias=False)
        self.skip = nn.Parameter(torch.ones(self.n_heads))
        self.gain = nn.Parameter(torch.full((width,), HEAD_GAIN))

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        return super().project(x, start, tail)._replace(gate=self.to_gate(x))

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        work = torch.promote_types(o.dtype, torch.float32)  # the gate may make numbers small that the norm makes large
        assert heads.gate is not None
        y = join_heads(o.to(work) + self.skip.to(work)[:, None, None] * heads.v.to(work)) * F.silu(heads.gate.to(work))
        groups = y.unflatten(-1, (self.n_key_heads, -1))
        unit = groups.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1.0)  # squares of 1e20 have no float32
        groups = groups / unit
        rate = (groups.square().mean(dim=-1, keepdim=True) + (self.norm_eps or EPS) / unit / unit).rsqrt()
        return self.to_out(((groups * rate).flatten(-2) * self.gain.to(work)).to(o.dtype))
