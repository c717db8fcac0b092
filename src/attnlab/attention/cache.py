"""What softmax attention keeps while decoding: all rows, or a ring of the rows that can still be read."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnlab.attention.mask import Mask
from attnlab.errors import UsageError


class KeysValues(NamedTuple):
    """The keys and values that one decode step may read, in the order of their positions; -1 marks an empty slot."""

    k: Float[Tensor, "b g s d"]
    v: Float[Tensor, "b g s v"]
    pos: Int[Tensor, " s"]


class Cache(NamedTuple):
    """Key and value rows, allocated once; `length` counts the tokens so far. Written in place by `append`."""

    k: Float[Tensor, "b g rows d"]
    v: Float[Tensor, "b g rows v"]
    length: int

    @classmethod
    def empty(cls, mask: Mask, *, batch: int, max_len: int, heads: int, d: int, v: int, like: Tensor) -> "Cache":
        """Room for `max_len` tokens, or for as many as the mask keeps if that is fewer."""
        rows = max_len if mask.cache_size is None else mask.cache_size
        return cls(like.new_zeros(batch, heads, rows, d), like.new_zeros(batch, heads, rows, v), 0)

    def append(
        self, k: Float[Tensor, "b g n d"], v: Float[Tensor, "b g n v"], mask: Mask
    ) -> tuple[KeysValues, "Cache"]:
        """Store n new rows; returns everything the new queries may need, and the cache that goes on."""
        n, length, device = k.size(2), self.length, k.device
        new = torch.arange(length, length + n, device=device)
        if mask.cache_size is None:
            if length + n > self.k.size(2):
                raise UsageError(f"the decode state has room for max_len={self.k.size(2)} tokens, not {length + n}")
            self.k[:, :, length : length + n], self.v[:, :, length : length + n] = k, v
            visible_kv = KeysValues(
                self.k[:, :, : length + n], self.v[:, :, : length + n], torch.arange(length + n, device=device)
            )
            return visible_kv, self._replace(length=length + n)
        held = mask.slot_positions(length, device)
        if not n:
            return KeysValues(self.k, self.v, held), self
        order = held.argsort()  # a ring begins anywhere; what is read stands in the order of positions
        visible_kv = KeysValues(
            torch.cat([self.k[:, :, order], k.to(self.k.dtype)], dim=2),
            torch.cat([self.v[:, :, order], v.to(self.v.dtype)], dim=2),
            torch.cat([held[order], new]),
        )
        # After this step each slot holds either one of the new rows or what it held before.
        after = mask.slot_positions(length + n, device)
        row, fresh = (after - length).clamp(0, n - 1), (after >= length)[:, None]
        self.k.copy_(torch.where(fresh, k[:, :, row].to(self.k.dtype), self.k))
        self.v.copy_(torch.where(fresh, v[:, :, row].to(self.v.dtype), self.v))
        return visible_kv, self._replace(length=length + n)
