"""The difference of two attention maps, in which what both see cancels."""

import math
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads, split_heads
from attnlab.attention.norm import EPS, HeadNorm
from attnlab.attention.published import normal
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.errors import UsageError
from attnlab.options import OptionError, Positive, option


class DifferentialAttention(SoftmaxAttention):
    """Subtracts a second attention map from the first, so that noise which both see cancels.

    Rule: o = (A_1 - lambda A_2) v, lambda = exp(q_1 . k_1) - exp(q_2 . k_2) + l. With l = 0.8 - 0.6 exp(-0.3 layer),
    and each head's output is rms(o) * (1 - l). Two heads of the configuration make one here, with values twice as wide,
    so there are as many weights as in multi-head attention. Likewise of the heads of keys and values.

    Source: arXiv 2410.05258. Where we differ: the four vectors of lambda start at 0.1, not at random.
    """

    documents = True
    published: ClassVar = dict.fromkeys(("lambda_q", "lambda_k"), normal(0.1))
    qkv_bias: bool = option(default=False, doc="Whether queries, keys and values have a bias.")
    out_bias: bool = option(default=False, doc="Whether the output has a bias.")
    norm_eps: Positive = option(default=None, null="2^-23", doc="Added to the mean square of a head's output.")
    norm_gain: bool = option(default=True, doc="Whether the norm of a head's output has a gain.")
    fusable = False

    def setup(self) -> None:
        width, n_kv_heads = self.d_out or self.d_model, self.n_kv_heads or self.n_heads
        if self.n_heads % 2 or (not self.head_dim and width % self.n_heads):
            raise UsageError(f"n_heads ({self.n_heads}) must be even and divide d_model ({width}): maps come in pairs")
        if n_kv_heads % 2:
            raise OptionError("n_kv_heads", n_kv_heads, "must be even: maps come in pairs")
        self.head_dim = self.head_dim or width // self.n_heads
        self.n_heads, self.n_kv_heads, self.value_dim = self.n_heads // 2, n_kv_heads // 2, 2 * self.head_dim
        super().setup()
        if self.cached_extras:
            raise UsageError("attention/score must not cache numbers beside the keys: keys come in pairs here")
        self.traits = replace(self.traits, map_kind="signed")
        widths = [n * self.value_dim for n in (self.n_heads, self.n_kv_heads, self.n_kv_heads)]
        self.to_q, self.to_k, self.to_v = (nn.Linear(self.d_model, n, bias=self.qkv_bias) for n in widths)
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * self.layer)
        self.lambda_q, self.lambda_k = (nn.Parameter(torch.full((2, self.head_dim), 0.1)) for _ in range(2))
        self.norm = HeadNorm(self.value_dim, eps=self.norm_eps or EPS, gain=self.norm_gain)
        self.to_out = nn.Linear(widths[0], self.d_out, bias=self.out_bias)

    @property
    def key_width(self) -> int:
        return 2 * self.head_dim

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q = split_heads(self.to_q(x), self.n_heads)
        k, v = (split_heads(to(x), self.n_kv_heads) for to in (self.to_k, self.to_v))
        halves = zip(q.chunk(2, dim=-1), k.chunk(2, dim=-1), strict=True)
        qs, ks = zip(*(self.prepare_qk(q, k, x, start)[:2] for q, k in halves), strict=True)
        return Heads(torch.cat(qs, dim=-1), torch.cat(ks, dim=-1), v)

    def explicit_weights(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Float[Tensor, "b h t s"]:
        halves = zip(heads.q.chunk(2, dim=-1), heads.k.chunk(2, dim=-1), strict=True)
        first, second = (
            super(DifferentialAttention, self).explicit_weights(heads._replace(q=q, k=k), q_pos, k_pos)
            for q, k in halves
        )
        plus, minus = (self.lambda_q * self.lambda_k).sum(-1).exp()
        return first - (plus - minus + self.lambda_init) * second

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(self.norm(o) * (1 - self.lambda_init)))
