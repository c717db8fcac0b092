"""Scores that grow with the logarithm of how many keys there are."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.published import UNSAID, Starts
from attnlab.attention.score import Score
from attnlab.attention.score_context import KeyRows, OneScore, ScoreContext
from attnlab.options import Positive, option


class SSMax(Score):
    """Multiplies scores by the logarithm of how many keys are visible, so that long rows stay as sharp as short ones.

    Rule: score_ij = s_h * ln(n_i) * score_ij. n_i counts the keys that query i sees, and s_h is learned per head;
    without it, attention to the best key vanishes as 1 / n. The first row has one key: ln(1) = 0 changes nothing.

    Source: scalable softmax, arXiv 2501.19399. `start` is the initial s_h: with 0.2, rows of e^5 = 148 keys start as
    they are without it.
    """

    order = 15
    fusable = False
    by_score = True

    published: ClassVar[Starts] = {"gain": UNSAID}
    start: Positive = option(default=0.2, doc="The initial s_h of all heads.")

    def setup(self) -> None:
        super().setup()
        self.gain = nn.Parameter(torch.full((self.n_heads,), self.start))

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        count = ctx.visible.sum(dim=-1, keepdim=True).clamp(min=1).to(scores.dtype)
        return scores * self.gain[:, None, None].to(scores.dtype) * count.log()

    def one_score(self, rows: KeyRows) -> OneScore:
        logs, gain = rows.visible.clamp(min=1).to(self.gain.dtype).log(), self.gain
        return lambda score, b, h, i, j: score * gain[h] * logs[b, i]


class LogScaling(Score):
    """Multiplies scores by a number that grows with the logarithm of how many keys there are beyond a floor.

    Rule: score_ij = (1 + alpha ln max(1, n_i / floor)) score_ij. n_i counts the keys that query i sees; nothing is
    learned. It acts on what other modifiers have made of the scores, too.

    Source: Inkling, by its code in Hugging Face transformers (2026); after scalable softmax, arXiv 2501.19399.
    """

    order = 35
    fusable = False
    by_score = True

    alpha: Positive = option(default=0.1, doc="How fast scores grow.")
    floor: Positive = option(default=64.0, doc="Keys up to which they do not.")

    def factor(self, visible: Tensor) -> Tensor:
        """What scores are multiplied by, given how many keys a query sees."""
        return 1 + self.alpha * (visible / self.floor).clamp(min=1).log()

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        return scores * self.factor(ctx.visible.sum(dim=-1, keepdim=True).to(scores.dtype))

    def one_score(self, rows: KeyRows) -> OneScore:
        factors = self.factor(rows.visible.double())
        return lambda score, b, h, i, j: score * factors[b, i].to(score.dtype)
