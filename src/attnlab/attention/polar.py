"""Polar positions: contents are lengths, positions are angles, and neither moves the other."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.documents import Start, rows_at
from attnlab.attention.published import ALIKE, Starts
from attnlab.attention.rotary import RoPE


class PoPE(RoPE):
    """Makes each coordinate of a query or key the length of a pair whose angle is the position's alone.

    Rule: score_ij = scale * sum_c softplus(q_ic) softplus(k_jc) cos((i - j) base^(-c/d) - delta_hc). RoPE also turns a
    pair by what stands in it, so that content and position share one angle; here what matches and where it stands are
    told apart. Queries and keys become twice as wide; delta, an angle for each head and coordinate, is learned.

    Source: arXiv 2509.10534, whose delta starts at 0 or anywhere. Where we differ: delta turns queries in place of
    keys, the other way round, which is the same where each query head has its own keys, and is not held within a turn.
    """

    documents = True
    hooks = frozenset({"rotate", "widen"})
    withdrawn = {"fraction"}

    published: ClassVar[Starts] = {"delta": ALIKE}

    def setup(self) -> None:
        self.width = 2 * self.head_dim
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.delta = nn.Parameter(torch.zeros(self.n_heads, 1, self.head_dim))

    def rotated_dim(self, head_dim: int) -> int:
        return 2 * head_dim

    def rotate(self, x: Float[Tensor, "b h n d"], start: Start = 0) -> Float[Tensor, "b h n e"]:
        x, rotations = self._polar(x, start)
        (c, s), (cos, sin) = rotations.unbind(-1), (self.delta.to(x.dtype).cos(), self.delta.to(x.dtype).sin())
        return torch.stack([x * (c * cos + s * sin), x * (s * cos - c * sin)], dim=-1).flatten(-2)

    def rotate_keys(self, x: Float[Tensor, "b h n d"], start: Start = 0) -> Float[Tensor, "b h n e"]:
        x, rotations = self._polar(x, start)
        return (x[..., None] * rotations).flatten(-2)

    def _polar(
        self, x: Float[Tensor, "b h n d"], start: Start
    ) -> tuple[Float[Tensor, "b h n d"], Float[Tensor, "*b n d 2"]]:
        """Lengths, and cosine and sine of each position's angles."""
        x = F.softplus(x.to(torch.promote_types(x.dtype, torch.float32)))
        return x, rows_at(start, x.size(2), lambda length: self.rotations(length, x))
