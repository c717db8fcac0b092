"""Layers whose only rule is the one that a test is about: their heads are slices of the token."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnlab.attention.base import HeadedAttention
from attnlab.attention.heads import Heads, join_heads, split_heads
from attnlab.attention.masked import MaskedAttention
from attnlab.attention.output import GatedOutput
from attnlab.attention.state import Memory, StateAttention
from attnlab.attention.traits import Traits


class Sliced(HeadedAttention):
    """Queries, keys and values are the token itself."""

    traits = Traits("probability", "linear")

    def project(self, x: Tensor, start: int = 0, tail: Tensor | None = None) -> Heads:
        y = split_heads(x, self.n_heads)
        return Heads(y, y, y)

    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        return join_heads(o)


class Itself(GatedOutput, Sliced):
    """Each token reads itself alone, through a gate and an output projection."""

    def setup(self) -> None:
        super().setup()
        self.build_output(self.n_heads)

    def project(self, x: Tensor, start: int = 0, tail: Tensor | None = None) -> Heads:
        return super().project(x)._replace(gate=self.gate.project(x))

    def mix(self, heads: Heads) -> Tensor:
        return heads.v

    def init_state(self, batch: int, max_len: int) -> Any:
        return None

    def step(self, x: Tensor, state: Any, shared: Any = None) -> tuple[Tensor, Any]:
        return self.forward(x), None


class Mean(Sliced, MaskedAttention):
    """The mean of all values that a token may read."""

    def explicit_weights(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Float[Tensor, "b h t s"]:
        visible = self.visible(q_pos, k_pos).to(heads.q.dtype)
        weights = visible / visible.sum(dim=-1, keepdim=True).clamp(min=1)
        return weights.expand(*heads.q.shape[:2], -1, -1)

    def init_state(self, batch: int, max_len: int) -> Any:
        return None

    def step(self, x: Tensor, state: Any, shared: Any = None) -> tuple[Tensor, Any]:
        raise NotImplementedError


class Sum(Sliced, StateAttention):
    """The sum of all values so far, and nothing else is remembered."""

    traits = Traits("nonnegative", "constant")

    def empty(self, batch: int, value_dim: int) -> Memory:
        return self.zeros(batch, self.n_heads, 1, value_dim)

    def scan(self, heads: Heads, memory: Memory, start: int) -> tuple[Tensor, Memory]:
        sums = memory + heads.v.to(memory.dtype).cumsum(dim=2)
        return sums.to(heads.v.dtype), sums[:, :, -1:] if heads.v.size(2) else memory


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
