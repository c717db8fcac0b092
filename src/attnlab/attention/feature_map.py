"""What becomes of queries and keys before they meet in the memory of a recurrent layer."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FeatureMap(nn.Module):
    """Applied to queries and keys alike; this base leaves them as they are.

    `positive`: all features are > 0; `unit`: they have length one.
    """

    positive = False
    unit = False

    def __init__(self, *, head_dim: int) -> None:
        super().__init__()
        self.query_scale = head_dim**-0.5

    def forward(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        return x


class EluPlusOne(FeatureMap):
    """Makes every feature positive: elu(x) + 1, so that the weights of linear attention are positive too.

    Source: arXiv 2006.16236.
    """

    positive = True

    def forward(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        return F.elu(x) + 1


class UnitLength(FeatureMap):
    """Scales queries and keys to length one, which keeps the delta rule stable: x / |x|. Source: arXiv 2406.06484."""

    unit = True

    def forward(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        return F.normalize(x, dim=-1)
