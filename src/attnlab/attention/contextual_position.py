"""Positions counted by contents: how many matching tokens ago, instead of how many tokens ago."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.mask import Mask
from attnlab.attention.normalizer import Normalizer
from attnlab.attention.precision import full_precision
from attnlab.attention.score import Score
from attnlab.attention.score_context import ScoreContext
from attnlab.errors import UsageError
from attnlab.options import Count, option


class CoPE(Score):
    """Lets each query decide which tokens count when it measures how far away a key is: sentences, say, or words.

    Rule: score_ij = score_ij + scale * q_i . e[p_ij], p_ij = min(p_max, sum_{l=j..i} sigmoid(scale * q_i . k_l)). The
    p_max + 1 rows of e, shared by all heads, are learned; between two whole positions their products with the query are
    interpolated.

    Source: contextual position encoding (CoPE), arXiv 2405.18719, whose formula has no scale in the gates, and whose
    code has it. Where we differ: what is added is scaled as the scores are.
    """

    order = 30
    fusable = False
    reads_keys = needs_all = True

    p_max: Count = option(default=15, doc="The farthest position that is told apart.")

    def setup(self) -> None:
        super().setup()
        self.table = nn.Embedding(self.p_max + 1, self.key_dim)

    def check(self, mask: Mask, normalizer: Normalizer) -> None:
        super().check(mask, normalizer)
        n = mask.cache_size
        if n is not None and n < 2 * self.p_max:  # gates near one half would never count to the end
            raise UsageError(
                f"attention/score (CoPE) with p_max ({self.p_max}) must not count past half of the keys that "
                f"attention/mask shows, {n} keys: choose p_max of at most {n // 2} or a longer window"
            )

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        q, k = ctx.q.to(scores.dtype), ctx.k.to(scores.dtype)
        earlier = (ctx.k_pos <= ctx.q_pos[:, None]) & (ctx.k_pos >= 0)  # hidden tokens in between count, too
        with full_precision(scores.device):
            gates = (q @ k.mT * ctx.scale).sigmoid().masked_fill(~earlier, 0.0)
            at_whole = q @ self.table.weight.to(scores.dtype).T * ctx.scale  # (b, h, t, p_max + 1)
        count = gates.flip(-1).cumsum(dim=-1).flip(-1).clamp(max=self.p_max)
        below = count.detach().floor().clamp(max=self.p_max - 1).long()
        low, high = at_whole.gather(-1, below), at_whole.gather(-1, below + 1)
        return scores + torch.lerp(low, high, count - below)
