"""Attention over depth: each half of a block reads what earlier halves wrote, weighed token by token."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.norm import EPS


class Depth(NamedTuple):
    """What the embeddings and every half of a block so far have written, in order."""

    outputs: tuple[Float[Tensor, "b t c"], ...]


class DepthMix(nn.Module):
    """A mixture of what earlier layers wrote, in the place of its sum.

    Rule: x = sum_i p_i h_i, p = softmax_i(w . rms(h_i)). w is learned and starts at 0, where x is the mean.

    Source: attention residuals, arXiv 2603.15031, over all layers. Where we differ: w holds the gain of the norm.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(d_model))

    def forward(self, depth: Depth) -> Float[Tensor, "b t c"]:
        dtype = depth.outputs[0].dtype
        work = torch.promote_types(dtype, torch.float32)
        outputs = torch.stack([output.to(work) for output in depth.outputs])
        keys = F.rms_norm(outputs, outputs.shape[-1:], eps=EPS)
        weights = (keys * self.query.to(work)).sum(dim=-1, keepdim=True).softmax(dim=0)
        return (weights * outputs).sum(dim=0).to(dtype)
