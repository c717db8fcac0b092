"""Heads that exchange scores before the normaliser and weights after it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.precision import full_precision
from attnlab.attention.published import Starts, normal
from attnlab.attention.score import Score
from attnlab.attention.score_context import ScoreContext


class TalkingHeads(Score):
    """Lets heads talk: each head's scores, and then its weights, become a learned mixture of all heads'.

    Rule: score_h = sum_m P_hm score_m, then weights_h = sum_m Q_hm weights_m. P and Q are heads x heads. Both start as
    the identity, which is plain attention. A mixture may be negative, so the map is signed; what no head sees keeps
    weight 0. Position biases act after P.

    Source: talking-heads attention, arXiv 2003.02436, whose code draws both as any matrix.
    """

    order = 40
    fusable = False
    map_kind = "signed"

    @property
    def published(self) -> Starts:
        return dict.fromkeys(("before", "after"), normal(self.n_heads**-0.5))

    def setup(self) -> None:
        super().setup()
        self.before, self.after = nn.Parameter(torch.eye(self.n_heads)), nn.Parameter(torch.eye(self.n_heads))

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        return mixed_heads(self.before, scores)

    def apply_weights(
        self, weights: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        return mixed_heads(self.after, weights)


def mixed_heads(mixture: Float[Tensor, "o h"], y: Float[Tensor, "b h t s"]) -> Float[Tensor, "b o t s"]:
    """Each head's map as a mixture of all; scores and weights stay as precise as they are."""
    with full_precision(y.device):
        return torch.einsum("oh,bhts->bots", mixture.to(y.dtype), y)
