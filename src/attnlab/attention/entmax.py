"""Sparse rules: scores far enough below the best one weigh exactly nothing."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnlab.attention.normalizer import Normalizer


def below_best(scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
    """Scores less the best visible one; -2 where invisible, which lies below every threshold, as these exceed -1."""
    best = scores.masked_fill(~visible, -torch.inf).amax(dim=-1, keepdim=True).detach()
    return (scores - best).clamp(min=-2.0).masked_fill(~visible, -2.0)


class Sparsemax(Normalizer):
    """The nearest point of the simplex, so that weak keys weigh exactly 0: w_j = relu(s_j - tau), where sum w = 1.

    Source: arXiv 1602.02068. The threshold tau is exact, by sorting.
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
    """Halfway between softmax and sparsemax: w_j = relu(s_j / 2 - tau)^2, where sum w = 1.

    Source: arXiv 1905.05702, for alpha = 1.5. The threshold tau is exact, by sorting.
    """

    map_kind = "probability"

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        z = below_best(scores / 2, visible)
        with torch.no_grad():
            ranked = z.sort(dim=-1, descending=True).values
            rank = torch.arange(1, z.size(-1) + 1, device=z.device)
            mean = ranked.cumsum(dim=-1) / rank
            spread = (ranked**2).cumsum(dim=-1) - rank * mean**2
            size = (mean - ((1 - spread) / rank).relu().sqrt() <= ranked).sum(dim=-1, keepdim=True)
            support = z >= ranked.gather(-1, size - 1)
        size = support.sum(dim=-1, keepdim=True)
        mean = (z * support).sum(dim=-1, keepdim=True) / size
        spread = ((z - mean) ** 2 * support).sum(dim=-1, keepdim=True)
        tau = mean - ((1 - spread) / size).sqrt()
        return (z - tau).relu() ** 2
