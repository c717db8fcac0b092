"""HGRN2: a memory whose rows are written exactly as far as they forget."""

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads
from attnlab.attention.published import ALIKE, Starts
from attnlab.attention.recurrent import RecurrentAttention


class Forgetting(NamedTuple):
    """How much of each row of the memory remains, by its logarithm, and how much is forgotten."""

    log_kept: Float[Tensor, "b h t d"]
    forgotten: Float[Tensor, "b h t d"]


class HGRN2Attention(RecurrentAttention):
    """Writes into each row of the memory as strongly as the row forgets, so that no key is needed.

    Rule: S_t = diag(f_t) S_{t-1} + (1 - f_t) v_t^T, o_t = S_t^T silu(W_q x_t) / sqrt(d), f_t = g + (1 - g)
    sigmoid(W_f x_t). W_f stands where the keys' matrix stands elsewhere. g, one number per channel, is the least that
    remains at a token: 0 in the first layer, and the more the higher the layer.

    Source: HGRN2, arXiv 2404.07904. Where we differ: there the bounds of all layers are one running sum of a softmax;
    here each layer learns its own, which starts where theirs does, at layer / n_layers. Each head has its own norm,
    with a gain that starts at 0.1; theirs goes over all heads and starts at 1.
    """

    documents = mixes_rows = True
    withdrawn = {"feature_map", "decay", "write", "writes", "n_key_heads", "conv", "conv_bias"}

    published: ClassVar[Starts] = {"bound": ALIKE}

    def setup(self) -> None:
        super().setup()
        share = self.layer / max(self.n_layers, self.layer + 1)
        start = torch.full((self.n_heads, 1, self.head_dim), math.log(share / (1 - share)) if share else 0.0)
        self.bound = nn.Parameter(start) if self.layer else None

    def forgetting(self, scores: Float[Tensor, "b h t d"]) -> Forgetting:
        """log f and 1 - f; neither is a difference of numbers near one."""
        if self.bound is None:
            return Forgetting(F.logsigmoid(scores), (-scores).sigmoid())
        bound = self.bound.to(scores.dtype)
        log_kept = torch.logaddexp(F.logsigmoid(bound), F.logsigmoid(-bound) + F.logsigmoid(scores))
        return Forgetting(log_kept, (-bound).sigmoid() * (-scores).sigmoid())

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, scores, v, tail = self.qkv(x, tail, start)
        work = torch.promote_types(v.dtype, torch.float32)
        log_kept, k = self.forgetting(scores.to(work))
        q = self.position.rotate(F.silu(q.to(work)), start) * self.feature_map.query_scale
        return Heads(q, self.position.rotate_keys(k, start), v, tail, log_decay=log_kept, gate=self.gate.project(x))
