"""What layers with a state of fixed size share: training, maps and decoding all come through one `scan`."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.attention.base import HeadedAttention, Shared
from attnlab.attention.heads import Heads

Memory = Any  # a tensor, or nested tuples of tensors; only the variant that made it looks inside


class RecurrentState(NamedTuple):
    """What `step` keeps: the memory, the tail of a short convolution (None without one), and the tokens seen."""

    memory: Memory
    tail: Tensor | None
    length: int


class StateAttention(HeadedAttention, ABC):
    """Reads a sequence into a memory whose size does not grow, and answers each query from it.

    A subclass writes `project`, `merge`, the memory before the first token (`empty`), and how tokens are written and
    read (`scan`). The rule must be linear in the values, unless its map is of kind "none".
    """

    withdrawn = {"n_kv_heads"}
    hooks = frozenset({"rotate"})

    @abstractmethod
    def empty(self, batch: int, value_dim: int) -> Memory:
        """The memory before the first token, for values of this width; in float32 at least."""

    @abstractmethod
    def scan(self, heads: Heads, memory: Memory, start: int) -> tuple[Float[Tensor, "b h t v"], Memory]:
        """Write tokens at positions start, start + 1, ... into the memory and read it; there may be none."""

    def empty_tail(self, batch: int) -> Tensor | None:
        """What a short convolution remembers before the first token; None without one."""
        return None

    def zeros(self, *shape: int) -> Tensor:
        """Zeros in float32 at least, however the model is stored: sums over many tokens need it."""
        return self.anchor.new_zeros(shape, dtype=torch.promote_types(self.anchor.dtype, torch.float32))

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        return self.scan(heads, self.empty(heads.v.size(0), heads.v.size(-1)), 0)[0]

    def init_state(self, batch: int, max_len: int) -> RecurrentState:
        return RecurrentState(self.empty(batch, self.value_dim), self.empty_tail(batch), 0)

    def step(
        self, x: Float[Tensor, "b n c"], state: RecurrentState, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], RecurrentState]:
        heads = self.share(self.project(x, state.length, state.tail), Shared() if shared is None else shared)
        o, memory = self.scan(heads, state.memory, state.length)
        return self.merge(o, heads), RecurrentState(memory, heads.tail, state.length + x.size(1))
