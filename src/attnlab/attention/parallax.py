"""Parallax: softmax attention that is also corrected for where its keys lie, by a second query."""

from dataclasses import replace
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, per_query_head, split_heads
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.precision import full_precision


class SecondQuery(NamedTuple):
    """What a token asks of how keys differ from those that it reads."""

    r: Float[Tensor, "b h t d"]


class ParallaxAttention(MultiHeadAttention):
    """Local linear attention: weights of a softmax, moved against the slope that a second query gives over the keys.

    Rule: w_j = p_j (1 + sum_l p_l r . k_l - r . k_j), p = softmax(q . k_j / sqrt(d)), r = W_r x. The weights sum to
    one and may be negative. r rotates as q does. Scores are written out: no fused kernel serves, and memory grows with
    the square of the length. Decoding keeps keys and values alone.

    Source: Parallax, arXiv 2605.29157. r . k has no scale there either; W_r starts as W_q does. Made for position=none:
    theirs turns nothing.
    """

    withdrawn = {"mask", "score", "normalizer"}
    hooks = frozenset({"rotate"})
    fusable = False

    def setup(self) -> None:
        super().setup()
        self.traits = replace(self.traits, map_kind="signed")
        self.to_r = nn.Linear(self.d_model, self.n_heads * self.head_dim, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        r = self.position.rotate(split_heads(self.to_r(x), self.n_heads), start)
        return super().project(x, start, tail)._replace(own=SecondQuery(r))

    def explicit_weights(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Float[Tensor, "b h t s"]:
        weights = super().explicit_weights(heads, q_pos, k_pos)
        with full_precision(weights.device):
            k = per_query_head(heads.k, self.n_heads).to(weights.dtype)
            slope = heads.own.r.to(weights.dtype) @ k.mT
            # A number taken off all slopes of a row changes nothing; this one keeps the digits of the largest weight.
            slope = slope - slope.detach().gather(-1, weights.argmax(dim=-1, keepdim=True))
            return weights * (1 + (weights * slope).sum(dim=-1, keepdim=True) - slope)
