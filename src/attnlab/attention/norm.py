"""Norms that do not round on the way: root-mean-square normalisation, and LayerNorm."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.published import ALIKE, Starts, exactly

EPS = 2.0**-23  # float32's own, whatever the type, so that a copy in float64 is the same function
LAYER_EPS = 1e-5
HEAD_GAIN = 0.1  # about what softmax attention writes when training begins, where the gain of 1 is ten times as much


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * g, in float32 at least, for in bfloat16 the norm would round; in the type of x.

    `unit_offset`: the parameter is w, and g = 1 + w, as in Gemma (arXiv 2403.08295). Without `gain`, g = 1.

    Source: arXiv 1910.07467. Where we differ: eps is 2^-23; most models take 1e-6 or 1e-5, which damps inputs below
    about 1e-3.
    """

    start = 1.0  # the initial g
    published: ClassVar[Starts] = {"weight": ALIKE}

    def __init__(self, width: int, *, eps: float = EPS, unit_offset: bool = False, gain: bool = True) -> None:
        self.offset = 1.0 if unit_offset else 0.0
        super().__init__(width, eps=eps, elementwise_affine=gain)

    def reset_parameters(self) -> None:
        if self.weight is not None:
            nn.init.constant_(self.weight, self.start - self.offset)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        work = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(work), self.normalized_shape, _gain(self, work), self.eps).to(x.dtype)


class HeadNorm(RMSNorm):
    """RMSNorm over the channels of each head's output, whose gain starts at 0.1.

    An output of size 1 goes through `to_out` into a residual stream whose token embeddings start at 0.02, and drowns
    them: for hundreds of steps the model learns to undo that. Where we differ: gains of the norm over heads start at
    0.1, published ones at 1; they are learned, so only the beginning differs.
    """

    start = HEAD_GAIN
    published: ClassVar = {"weight": exactly(1.0)}


class LayerNorm(nn.LayerNorm):
    """(x - mean x) / sqrt(var x + eps) * g + b, in float32 at least; in the type of x.

    `unit_offset` and `gain` as for RMSNorm; b only with `bias`. Source: arXiv 1607.06450.
    """

    published: ClassVar[Starts] = {"weight": ALIKE, "bias": ALIKE}

    def __init__(
        self, width: int, *, eps: float = LAYER_EPS, unit_offset: bool = False, gain: bool = True, bias: bool = False
    ) -> None:
        self.offset = 1.0 if unit_offset else 0.0
        super().__init__(width, eps=eps, elementwise_affine=gain, bias=bias)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.weight is not None:
            nn.init.constant_(self.weight, 1.0 - self.offset)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        work = torch.promote_types(x.dtype, torch.float32)
        shift = None if self.bias is None else self.bias.to(work)
        return F.layer_norm(x.to(work), self.normalized_shape, _gain(self, work), shift, self.eps).to(x.dtype)


def _gain(norm: RMSNorm | LayerNorm, work: torch.dtype) -> Tensor | None:
    """What a norm multiplies by; None where that is 1."""
    weight: Tensor | None = norm.weight
    if weight is None:
        return None
    return weight.to(work) + norm.offset if norm.offset else weight.to(work)
