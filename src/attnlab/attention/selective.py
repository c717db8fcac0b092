"""Tokens that mask earlier ones for all later queries, without any parameter."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attnlab.attention.precision import full_precision
from attnlab.attention.score import Score
from attnlab.attention.score_context import ScoreContext


class Selective(Score):
    """Lets each token declare earlier ones no longer needed, for every later query and in every head.

    Rule: score_ij = score_ij - F_ij, F_ij = sum_{j<l<i} relu(s_lj). Here s_lj = scale * q_l . k_j is the score of head
    0. A token masks neither itself nor the first token, and only queries after it notice. No parameters.

    Source: selective attention, arXiv 2410.02703. Where we differ: s_lj is the score before other changes and position
    biases. Decoding keeps the queries of head 0 (spread over the heads: head_dim numbers per token, rounded up to a
    multiple of the heads) and forms F again at each step, which takes a product of all cached tokens with all.
    """

    order = 30
    fusable = False
    reads_keys = needs_all = True

    def setup(self) -> None:
        super().setup()
        self.cached_extras = -(-self.key_dim // self.n_heads)

    def make_extras(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> Float[Tensor, "b h t e"]:
        spread = F.pad(q[:, 0], (0, self.n_heads * self.cached_extras - self.key_dim))
        return spread.unflatten(-1, (self.n_heads, self.cached_extras)).transpose(1, 2)

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        assert carried is not None
        queries = carried.transpose(1, 2).flatten(2)[..., : self.key_dim].to(scores.dtype)
        with full_precision(scores.device):
            votes = F.relu(queries @ ctx.k[:, 0].to(scores.dtype).mT * ctx.scale).tril(-1)  # rows vote on columns
        votes = votes.masked_fill(ctx.k_pos <= 0, 0.0)
        masked = votes.cumsum(dim=1) - votes  # votes of the tokens before the query's own
        return scores - masked[:, None, masked.size(1) - scores.size(-2) :]
