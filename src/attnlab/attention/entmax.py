"""Sparse rules: scores far enough below the best one weigh exactly nothing."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnlab.attention.normalizer import Normalizer
from attnlab.options import option
from attnlab.options.rules import Rule


def below_best(scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
    """Scores less the best visible one; -2 where invisible, which lies below every threshold, as these exceed -1."""
    best = scores.masked_fill(~visible, -torch.inf).amax(dim=-1, keepdim=True).detach()
    return (scores - best).clamp(min=-2.0).masked_fill(~visible, -2.0)


class Sparsemax(Normalizer):
    """The nearest point of the simplex, so that weak keys weigh exactly 0.

    Rule: w_j = relu(s_j - tau), sum w = 1. Source: arXiv 1602.02068. The threshold tau is exact, by sorting.
    """

    map_kind = "probability"

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        z = below_best(scores, visible)
        with torch.no_grad():
            ranked = z.sort(dim=-1, descending=True).values
            rank = torch.arange(1, z.size(-1) + 1, device=z.device)
            size = (1 + rank * ranked > ranked.cumsum(dim=-1)).sum(dim=-1, keepdim=True)
            support = z >= ranked.gather(-1, size - 1)
        tau = ((z * support).sum(dim=-1, keepdim=True) - 1) / support.sum(dim=-1, keepdim=True)
        return (z - tau).relu()


class Entmax(Normalizer):
    """Between softmax (alpha near 1) and sparsemax (alpha 2).

    Rule: w_j = relu((alpha - 1) s_j - tau)^(1 / (alpha - 1)), sum w = 1. With p = 1 / (alpha - 1), tau is where the
    p-norm of relu((alpha - 1) s - tau) is one. That norm falls with tau and is convex, so Newton's steps from below
    never overshoot, and each divides the norm's excess times its slope by four at least; 10 of them leave nothing that
    float64 could hold. One more step, which autograd sees, has the slope of the solution.

    Source: arXiv 1905.05702. Where we differ: in arXiv 1909.00015 each head learns its alpha; here it is a setting.
    """

    map_kind = "probability"
    steps = 10

    alpha: Annotated[float, Rule(float, least=1.05, most=2)] = option(
        default=1.5, doc="From near softmax to 2, which is sparsemax; for 1 use attention/normalizer=softmax."
    )

    def setup(self) -> None:
        self.power = 1 / (self.alpha - 1)

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        z = below_best((self.alpha - 1) * scores, visible)
        with torch.no_grad():
            tau = z.new_full((*z.shape[:-1], 1), -1.0)  # there the best score alone has the norm one
            for _ in range(self.steps):
                above = (z - tau).relu()
                slopes = above ** (self.power - 1) * (above > 0)
                total, slope = (slopes * above).sum(dim=-1, keepdim=True), slopes.sum(dim=-1, keepdim=True)
                tau = tau + (total - total ** (1 - 1 / self.power)) / slope
            slopes = (z - tau).relu() ** (self.power - 1) * (z > tau)
        total = ((z - tau).relu() ** self.power).sum(dim=-1, keepdim=True)
        tau = tau + (total - 1) / (self.power * slopes.sum(dim=-1, keepdim=True))
        return (z - tau).relu() ** self.power
