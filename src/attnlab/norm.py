"""Root-mean-square normalisation that does not round on the way."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * g, computed in float32 at least, for in bfloat16 the norm itself would round; in the type of x.

    Source: arXiv 1910.07467.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        work = torch.promote_types(x.dtype, torch.float32)
        assert self.weight is not None
        return F.rms_norm(x.to(work), self.normalized_shape, self.weight.to(work), self.eps).to(x.dtype)
