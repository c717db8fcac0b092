"""Layers of two kinds, whose last ones read the keys and values of the last layer of their kind that made some."""

from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.layer_sharing import SharedKV, SharesKeysValues
from attnlab.attention.norm import RMSNorm
from attnlab.attention.output import GatedOutput
from attnlab.options import Count, option


class WindowKV(SharedKV):
    """What a layer shares whose cache is a ring."""


class WholeKV(SharedKV):
    """What a layer shares that keeps all tokens."""


class TailSharingAttention(GatedOutput, SharesKeysValues):
    """Attention with norms of queries, keys and values, and no keys and values of its own in the last layers.

    Rule: q = rotate(rms(W_q x) * g_q), k = rotate(rms(W_k x) * g_k), v = rms(W_v x), o = softmax(q K^T) V. Scores are
    not divided by sqrt(d). `tied`: W_v = W_k. From layer number `makers` on, k and v are those of the last layer that
    made some and caches as this one does: a ring for a window, or all tokens. Such a layer caches nothing.

    Source: Hugging Face transformers, `gemma4` (2026); sharing: arXiv 2405.12981.
    """

    documents = True
    withdrawn = {"score"}
    tied: bool = option(default=False, doc="Whether values are made of what keys are made of.")
    makers: Count = option(default=None, null="all", doc="Layers, from the first, that make keys and values.")

    def setup(self) -> None:
        super().setup()
        self.scale = 1.0
        self.makes = self.makers is None or self.layer < self.makers
        self.record = WindowKV if self.mask.cache_size is not None else WholeKV
        self.to_q = nn.Linear(self.d_model, self.n_heads * self.head_dim, bias=False)
        self.q_norm = RMSNorm(self.head_dim)
        if self.makes:
            width = self.n_kv_heads * self.head_dim
            self.to_k = nn.Linear(self.d_model, width, bias=False)
            self.to_v = None if self.tied else nn.Linear(self.d_model, width, bias=False)
            self.k_norm, self.v_norm = RMSNorm(self.head_dim), RMSNorm(self.head_dim, gain=False)
        else:
            self.become_reader()
        self.build_output(self.n_heads)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, gate = (
            self.position.rotate(self.q_norm(split_heads(self.to_q(x), self.n_heads)), start),
            self.gate.project(x),
        )
        if not self.makes:
            return Heads(q, q[:, :0], q[:, :0], gate=gate)
        k = split_heads(self.to_k(x), self.n_kv_heads)
        v = self.v_norm(k if self.to_v is None else split_heads(self.to_v(x), self.n_kv_heads))
        return Heads(q, self.position.rotate_keys(self.k_norm(k), start), v, gate=gate)
