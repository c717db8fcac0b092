"""Root-mean-square normalisation that does not round on the way."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EPS = 2.0**-23  # float32's own, whatever the type, so that a copy in float64 is the same function
HEAD_GAIN = 0.1  # about what softmax attention writes when training begins, where the gain of 1 is ten times as much


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * g, in float32 at least, for in bfloat16 the norm would round; in the type of x.

    Source: arXiv 1910.07467. Where we differ: eps is 2^-23; most models take 1e-6 or 1e-5, which damps inputs below
    about 1e-3.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        work = torch.promote_types(x.dtype, torch.float32)
        assert self.weight is not None
        return F.rms_norm(x.to(work), self.normalized_shape, self.weight.to(work), self.eps).to(x.dtype)


class HeadNorm(RMSNorm):
    """RMSNorm over the channels of each head's output, whose gain starts at 0.1.

    An output of size 1 goes through `to_out` into a residual stream whose token embeddings start at 0.02, and drowns
    them: for hundreds of steps the model learns to undo that. Where we differ: gains of the norm over heads start at
    0.1, published ones at 1; they are learned, so only the beginning differs.
    """

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, HEAD_GAIN)
