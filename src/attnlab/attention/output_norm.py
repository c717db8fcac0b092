"""How the output of a recurrent layer is kept in bounds."""

from abc import ABC

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.feature_map import FeatureMap
from attnlab.attention.norm import EPS, HeadNorm
from attnlab.attention.write import Write
from attnlab.errors import UsageError
from attnlab.options import Configurable, Count, Positive, given, option


class OutputNorm(Configurable, nn.Module, ABC):
    """Divides inside the map, or normalises each head after it.

    `widen` and `divide` act around the scan and belong to the map; `forward` acts after it, in `merge`.
    """

    divides = False
    extra_columns = 0

    value_dim: Count = given(doc="Width of a value in each head.")

    def check(self, feature_map: FeatureMap, write: Write) -> None:
        """Refuse a combination that makes no sense."""

    def widen(self, v: Float[Tensor, "b h t v"]) -> Float[Tensor, "b h t w"]:
        return v

    def divide(self, o: Float[Tensor, "b h t w"]) -> Float[Tensor, "b h t v"]:
        return o

    def forward(self, o: Float[Tensor, "b h t v"]) -> Float[Tensor, "b h t v"]:
        return o


class NoOutputNorm(OutputNorm):
    """Leaves the output as it is."""

    neutral = True


class SumNorm(OutputNorm):
    """Divides by the sum of the weights, so that they sum to one.

    Rule: o = S^T q / z^T q, z = sum of keys. The sum rides along as one more value column that holds ones. Source:
    arXiv 2006.16236. Where we differ: the code of arXiv 2006.16236 adds 1e-6 to the sum.
    """

    divides = True
    extra_columns = 1

    def check(self, feature_map: FeatureMap, write: Write) -> None:
        if not feature_map.positive or write.erases:
            raise UsageError(
                "attention/output_norm=sum divides by a sum of weights, which may be zero unless they are positive: "
                "use attention/feature_map=elu, taylor or random with attention/write=add, or attention/output_norm=rms"
            )

    def widen(self, v: Float[Tensor, "b h t v"]) -> Float[Tensor, "b h t w"]:
        return F.pad(v, (0, 1), value=1.0)

    def divide(self, o: Float[Tensor, "b h t w"]) -> Float[Tensor, "b h t v"]:
        return o[..., :-1] / o[..., -1:]


class RMSOutputNorm(OutputNorm):
    """Gives each head's output unit root-mean-square after the map, with a learned gain.

    Rule: o = rms(o) * g. Source: RetNet, arXiv 2307.08621, whose norm of groups takes the mean off, too; of the delta
    rules, arXiv 2406.06484.
    """

    eps: Positive = option(default=None, null="2^-23", doc="Added to the mean square.")

    def setup(self) -> None:
        self.norm = HeadNorm(self.value_dim, eps=self.eps or EPS)

    def forward(self, o: Float[Tensor, "b h t v"]) -> Float[Tensor, "b h t v"]:
        return self.norm(o)
