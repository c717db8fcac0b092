"""Heads that exchange scores and weights as the tokens at both ends say."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.norm import EPS
from attnlab.attention.precision import full_precision
from attnlab.attention.published import UNSAID, Starts
from attnlab.attention.score import Score
from attnlab.attention.score_context import ScoreContext
from attnlab.attention.talking_heads import mixed_heads
from attnlab.options import Count, option


class DynamicHeads(Score):
    """Composes each score, and each weight, from those of all heads, by mixtures that query and key choose.

    Rule: a_ij = (P + w_2 w_1^T(x_i) + diag g(x_i) + w_4 w_3^T(x_j) + diag g'(x_j)) a_ij, over heads. It is done to
    scores and, with other numbers, to weights. P starts as the identity, and w_1 has unit root-mean-square over the
    heads; each comes of its token through `width` numbers and a GELU, g through a tanh. What no head sees keeps weight
    0; position biases act between the two.

    Source: dynamically composable multi-head attention, arXiv 2405.08553. Where we differ: P is learned for all heads
    together, there for groups of them or not at all. Decoding keeps the numbers of each key beside it.
    """

    order = 41
    fusable = False
    map_kind = "signed"

    published: ClassVar[Starts] = dict.fromkeys(("before", "after"), UNSAID)  # it has none, or one for each group
    rank: Count = option(default=2, doc="Directions in which a token mixes heads.")
    width: Count = option(default=16, doc="Numbers of which a token makes each of its mixtures.")

    def setup(self) -> None:
        super().setup()
        self.numbers = 2 * self.rank + 1
        self.query_extras = self.cached_extras = 2 * self.numbers
        self.to_hidden = nn.Linear(self.d_model, 4 * self.width, bias=False)
        self.to_mix = nn.ModuleList(nn.Linear(self.width, 2 * self.rank * self.n_heads, bias=False) for _ in range(4))
        self.to_gates = nn.Linear(self.d_model, 4 * self.n_heads, bias=False)
        self.before, self.after = nn.Parameter(torch.eye(self.n_heads)), nn.Parameter(torch.eye(self.n_heads))

    def mixtures(self, x: Float[Tensor, "b t c"], side: int) -> Float[Tensor, "b h t e"]:
        """What a token brings as a query (side 0) or as a key (1): for scores, then for weights."""
        hidden, gates = F.gelu(self.to_hidden(x)).chunk(4, dim=-1), self.to_gates(x).tanh().chunk(4, dim=-1)
        parts = []
        for part in (side, 2 + side):
            ends = self.to_mix[part](hidden[part]).unflatten(-1, (2, self.rank, self.n_heads))
            first = F.rms_norm(ends[:, :, 0], (self.n_heads,), eps=EPS)
            parts += [first, ends[:, :, 1], gates[part][:, :, None]]
        return torch.cat(parts, dim=2).movedim(-1, 1)

    def make_query_extras(self, q: Float[Tensor, "b h t d"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t e"]:
        return self.mixtures(x, 0)

    def make_extras(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> Float[Tensor, "b h t e"]:
        return self.mixtures(x, 1)

    def composed(
        self, a: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Tensor | None, part: int
    ) -> Float[Tensor, "b h t s"]:
        assert ctx.asked is not None and carried is not None
        mine = slice(part * self.numbers, (part + 1) * self.numbers)
        mixed = mixed_heads((self.before, self.after)[part], a)
        with full_precision(a.device):
            for numbers, axis in ((ctx.asked, "t"), (carried, "s")):
                first, second, gate = numbers[..., mine].to(a.dtype).split([self.rank, self.rank, 1], dim=-1)
                gathered = torch.einsum(f"bhts,bh{axis}r->brts", a, first)
                mixed = mixed + torch.einsum(f"brts,bh{axis}r->bhts", gathered, second)
                mixed = mixed + a * (gate if axis == "t" else gate.mT)
        return mixed

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        return self.composed(scores, ctx, carried, 0)

    def apply_weights(
        self, weights: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        return self.composed(weights, ctx, carried, 1)
