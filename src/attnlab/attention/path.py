"""Positions as a path: queries reach keys through the transformations of all tokens between them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.heads import split_heads
from attnlab.attention.precision import full_precision
from attnlab.attention.score import Score
from attnlab.attention.score_context import ScoreContext
from attnlab.options import Count, option


class Path(Score):
    """Each token reflects a direction of its own choice, and a score looks back through all tokens in between.

    Rule: score_ij = scale * q_i . H_i H_{i-1} ... H_{j+1} k_j, H_l = I - beta_l w_l w_l^T. These are the delta rule's
    transitions, as a position encoding. w_l has unit length and comes from x_l through `rank` numbers; beta_l = 2
    sigmoid(u . x_l + b) lies in (0, 2); with beta = 0 it is plain attention. It makes the scores anew, so it acts
    before every other modifier.

    All products come from one triangular solve: column j of a holds what each later token takes from k_j, a_l = beta_l
    (w_l . k_j - sum_{j<m<l} w_l . w_m a_m), so that score_ij = scale * (q_i . k_j - sum_{j<l<=i} q_i . w_l a_l).

    Source: PaTH attention, arXiv 2505.16381. Where we differ: no short convolution on w; w for each query head.
    Decoding keeps w and beta beside each key and solves again at each step; the paper updates the cached keys.
    """

    order = 1
    fusable = False
    reads_keys = makes_scores = needs_all = True

    rank: Count = option(default=32, doc="Numbers through which the directions are made.")

    def setup(self) -> None:
        super().setup()
        self.cached_extras = self.key_dim + 1
        self.to_low = nn.Linear(self.d_model, self.rank, bias=False)
        self.to_w = nn.Linear(self.rank, self.n_heads * self.key_dim, bias=False)
        self.to_beta = nn.Linear(self.d_model, self.n_heads)

    def make_extras(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> Float[Tensor, "b h t e"]:
        work = torch.promote_types(x.dtype, torch.float32)
        w = F.normalize(split_heads(self.to_w(self.to_low(x)), self.n_heads).to(work), dim=-1)
        return torch.cat([w, 2 * self.to_beta(x).to(work).sigmoid().mT[..., None]], dim=-1)

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        assert carried is not None
        q, k = ctx.q.to(scores.dtype), ctx.k.to(scores.dtype)
        w, beta = carried.to(scores.dtype).split([self.key_dim, 1], dim=-1)
        with full_precision(scores.device):
            # Ones on the diagonal are implied. Rows of empty slots are 0 and take nothing.
            between, taken = (beta * (w @ w.mT)).tril(-1), (beta * (w @ k.mT)).tril(-1)
            taken = torch.linalg.solve_triangular(between, taken, upper=False, unitriangular=True)
            q_w = (q @ w.mT).tril(k.size(2) - q.size(2))  # the queries' tokens are the last of the keys
            return (q @ k.mT - q_w @ taken) * ctx.scale
