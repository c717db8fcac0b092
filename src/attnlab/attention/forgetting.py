"""Scores that decay with what was read since: a forget gate inside softmax attention."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.precision import running_sum
from attnlab.attention.published import Starts, exactly
from attnlab.attention.score import Score
from attnlab.attention.score_context import KeyRows, OneScore, ScoreContext
from attnlab.options import option


class Forget(Score):
    """Each token decides how much of everything before it is forgotten: a recurrent decay, inside the softmax.

    Rule: score_ij = score_ij + sum_{l=j+1..i} log f_l, f_l = sigmoid(w_h . x_l + b_h). So the weight of key j is
    multiplied by every gate since. With f = 1 it is plain attention, with a constant f a linear bias like ALiBi's. It
    tells near from far, so that no other position is needed.

    `start` is the initial b_h: with 2, gates start near 0.88. The logarithms are summed in float64 over the keys at
    hand; decoding keeps one number per token and head.

    Source: Forgetting Transformer (FoX), arXiv 2503.02130. Where we differ: their code gives b_h no start of its own,
    and their Pro block adds an output gate, norms of queries, keys and outputs, and shifts of keys and values.
    """

    order = 30
    fusable = False
    by_score = True
    cached_extras = 1
    needs_all = True

    published: ClassVar[Starts] = {"bias": exactly(0.0)}
    start: float = option(default=2.0, doc="The initial b_h of all heads.")

    def setup(self) -> None:
        super().setup()
        self.to_forget = nn.Linear(self.d_model, self.n_heads, bias=False)
        self.bias = nn.Parameter(torch.full((self.n_heads,), self.start))

    def make_extras(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> Float[Tensor, "b h t e"]:
        work = torch.promote_types(x.dtype, torch.float32)
        return F.logsigmoid(self.to_forget(x).to(work) + self.bias.to(work)).mT[..., None]

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        assert carried is not None
        total = running_sum(carried[..., 0])
        own = total[..., total.size(-1) - scores.size(-2) :]  # the queries' tokens are the last of the keys
        return scores + (own[..., :, None] - total[..., None, :]).to(scores.dtype)

    def one_score(self, rows: KeyRows) -> OneScore:
        assert rows.carried is not None
        since = running_sum(rows.carried[..., 0]).to(rows.carried.dtype)
        before = -since  # a tensor of its own: FlexAttention takes a gradient at one place of each
        return lambda score, b, h, i, j: score + since[b, h, i] + before[b, h, j]
