"""Stick breaking: the nearest keys take their share first."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from attnlab.attention.normalizer import Normalizer


class StickBreaking(Normalizer):
    """Each key, from the nearest back, takes a share of what is left.

    Rule: w_ij = sigmoid(s_ij) prod_l (1 - sigmoid(s_il)). The product runs over the visible keys l nearer than j; an
    invisible key takes nothing. Source: arXiv 2410.17980. Where we differ: its first share goes to the token before;
    here to the token itself, so that no row is empty.
    """

    map_kind = "sub_probability"

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        left = F.logsigmoid(-scores).masked_fill(~visible, 0.0)
        nearer = F.pad(left[..., 1:].flip(-1).cumsum(dim=-1).flip(-1), (0, 1))
        return (F.logsigmoid(scores) + nearer).exp().masked_fill(~visible, 0.0)
