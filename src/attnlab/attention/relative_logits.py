"""Positions as biases that each token mixes for itself."""

from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.heads import split_heads
from attnlab.attention.precision import full_precision
from attnlab.attention.score import Score
from attnlab.attention.score_context import KeyRows, OneScore, ScoreContext
from attnlab.options import Count, option


class RelativeLogits(Score):
    """Each query mixes a few learned curves over the distance, and what comes out is added to its scores.

    Rule: score_ij = score_ij + r_h(x_i) . P[i - j] for i - j < extent, r_h = W_h x. P, of `width` numbers per distance,
    is shared by all heads. A query far from all that counts sees contents alone: beyond the extent nothing is added. It
    tells near from far, so that no other position is needed.

    Source: Inkling, by its code in Hugging Face transformers (2026); after the biases of Music Transformer, arXiv
    1809.04281, which come of the query itself.
    """

    order = 30
    fusable = False
    by_score = True

    width: Count = option(default=16, doc="Curves that a query mixes.")
    extent: Count = option(default=128, doc="Distances that are told apart; from there on nothing is added.")

    def setup(self) -> None:
        super().setup()
        self.query_extras = self.width
        self.to_mix = nn.Linear(self.d_model, self.n_heads * self.width, bias=False)
        self.curves = nn.Embedding(self.extent, self.width)

    def make_query_extras(self, q: Float[Tensor, "b h t d"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t e"]:
        return split_heads(self.to_mix(x), self.n_heads)

    def biases(self, mix: Float[Tensor, "b h t e"]) -> Float[Tensor, "b h t extent"]:
        """What each query adds at each distance."""
        with full_precision(mix.device):
            return mix @ self.curves.weight.to(mix.dtype).mT

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        assert ctx.asked is not None
        distance = ctx.q_pos[:, None] - ctx.k_pos
        biases = self.biases(ctx.asked.to(scores.dtype))
        near = biases.gather(-1, distance.clamp(0, self.extent - 1).expand_as(scores))
        return scores + near.masked_fill(distance >= self.extent, 0.0)

    def one_score(self, rows: KeyRows) -> OneScore:
        assert rows.asked is not None
        biases, last = self.biases(rows.asked), self.extent - 1

        def rule(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            near = biases[b, h, i, (i - j).clamp(0, last)]
            return score + near.where(i - j <= last, 0.0)

        return rule
