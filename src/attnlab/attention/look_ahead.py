"""Keys that go on learning from the tokens after them, as far as the query has read."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.heads import split_heads
from attnlab.attention.precision import full_precision
from attnlab.attention.score import Score
from attnlab.attention.score_context import ScoreContext


class LookAhead(Score):
    """Lowers the score of a key by what tokens between it and the query have since added to a second key of its place.

    Rule: score_ij = score_ij - silu(scale * q_i . u_ij), u_ij = sum_{j<l<=i} sigmoid(scale * a_j . b_l) c_l. a, b and c
    are three more projections of the tokens for each query head. No token sees a later one than the query's: the second
    key of a place is another one for each query.

    Source: causal attention with look-ahead keys (CASTLE), arXiv 2509.07301. Where we differ: only q is rotated by
    positions, not a, b and c; they are beside keys of the usual size, where the source halves these. Decoding keeps a,
    b and c of every token and forms all second keys again at each step; the source updates them.
    """

    order = 30
    fusable = False
    needs_all = True

    def setup(self) -> None:
        super().setup()
        self.widths = [self.head_dim, self.head_dim, self.key_dim]
        self.cached_extras = sum(self.widths)
        self.to_ahead = nn.ModuleList(
            nn.Linear(self.d_model, self.n_heads * width, bias=False) for width in self.widths
        )

    def make_extras(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> Float[Tensor, "b h t e"]:
        return torch.cat([split_heads(to(x), self.n_heads) for to in self.to_ahead], dim=-1)

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        assert carried is not None
        a, b, c = carried.to(scores.dtype).split(self.widths, dim=-1)
        with full_precision(scores.device):
            adds = (a @ b.mT * ctx.scale).sigmoid().triu(1)  # how much of token l place j takes in
            read = (ctx.q.to(scores.dtype) @ c.mT * ctx.scale).tril(c.size(2) - ctx.q.size(2))
            return scores - F.silu(read @ adds.mT)
