"""Rotary positions that decay with the distance."""

import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.attention.documents import Start, positions
from attnlab.attention.rotary import RoPE
from attnlab.attention.uncompiled import uncompiled
from attnlab.options import Positive, option


class XPos(RoPE):
    """RoPE whose pairs also decay with the distance, the fast ones first, so that far keys match less and less.

    Rule: score_i = score_i zeta_i^((n - m) / scale), zeta_i = (2i / d + gamma) / (1 + gamma). Pair i of a query at
    position n is multiplied by zeta_i^(n / scale), of a key at position m by zeta_i^(-m / scale).

    Source: arXiv 2212.10554, with gamma = 0.4 and scale = 512. Keys grow with their position: at these values float32
    holds them to position 36,000. Where we differ: their code counts positions from the middle of a row, which changes
    no product of a query and a key, but what is cached.
    """

    documents = True
    withdrawn = {"fraction"}
    gamma: Positive = option(default=0.4, doc="How little the fastest pair decays.")
    scale: Positive = option(default=512.0, doc="Tokens over which pairs decay.")

    def rotate(self, x: Float[Tensor, "b h n d"], start: Start = 0) -> Float[Tensor, "b h n d"]:
        rotated = super().rotate(x, start)
        return rotated * self._decay(rotated, start)

    def rotate_keys(self, x: Float[Tensor, "b h n d"], start: Start = 0) -> Float[Tensor, "b h n d"]:
        rotated = super().rotate(x, start)
        return rotated / self._decay(rotated, start)

    @uncompiled  # as for the angles
    def _decay(self, like: Float[Tensor, "b h n d"], start: Start) -> Float[Tensor, "*b n d"]:
        pair = torch.arange(self.width // 2, dtype=torch.float64, device=like.device)
        zeta = (2 * pair / self.width + self.gamma) / (1 + self.gamma)
        position = positions(start, like.size(2), like.device).double()
        return (zeta ** (position[..., None] / self.scale)).repeat_interleave(2, dim=-1).to(like.dtype)
