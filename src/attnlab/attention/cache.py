"""What softmax attention keeps while decoding: all rows, or a ring of the rows that can still be read."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnlab.attention.mask import Mask
from attnlab.errors import UsageError


class KeysValues(NamedTuple):
    """Keys and values at hand in one decode step, in the order of their positions; -1 marks an empty slot."""

    k: Float[Tensor, "b g s d"]
    v: Float[Tensor, "b g s v"]
    pos: Int[Tensor, " s"]


class Cache(NamedTuple):
    """Key and value rows, allocated once; `seen` counts the tokens so far. Written in place by `append`."""

    k: Float[Tensor, "b g rows d"]
    v: Float[Tensor, "b g rows v"]
    seen: int

    @classmethod
    def empty(cls, mask: Mask, *, batch: int, max_len: int, heads: int, d: int, v: int, like: Tensor) -> "Cache":
        """Room for `max_len` tokens, or for as many as the mask keeps if that is fewer."""
        rows = max_len if mask.kept is None else mask.kept
        return cls(like.new_zeros(batch, heads, rows, d), like.new_zeros(batch, heads, rows, v), 0)

    def append(
        self, k: Float[Tensor, "b g n d"], v: Float[Tensor, "b g n v"], mask: Mask
    ) -> tuple[KeysValues, "Cache"]:
        """Store n new rows; returns everything the new queries may need, and the cache that goes on."""
        n, seen, device = k.size(2), self.seen, k.device
        new = torch.arange(seen, seen + n, device=device)
        if mask.kept is None:
            if seen + n > self.k.size(2):
                raise UsageError(f"the decode state has room for max_len={self.k.size(2)} tokens, not {seen + n}")
            self.k[:, :, seen : seen + n], self.v[:, :, seen : seen + n] = k, v
            at_hand = KeysValues(
                self.k[:, :, : seen + n], self.v[:, :, : seen + n], torch.arange(seen + n, device=device)
            )
            return at_hand, self._replace(seen=seen + n)
        held = mask.held(seen, device)
        if not n:
            return KeysValues(self.k, self.v, held), self
        order = held.argsort()  # a ring begins anywhere; what is at hand stands in the order of positions
        at_hand = KeysValues(
            torch.cat([self.k[:, :, order], k.to(self.k.dtype)], dim=2),
            torch.cat([self.v[:, :, order], v.to(self.v.dtype)], dim=2),
            torch.cat([held[order], new]),
        )
        # After this step each slot holds either one of the new rows or what it held before.
        after = mask.held(seen + n, device)
        row, fresh = (after - seen).clamp(0, n - 1), (after >= seen)[:, None]
        self.k.copy_(torch.where(fresh, k[:, :, row].to(self.k.dtype), self.k))
        self.v.copy_(torch.where(fresh, v[:, :, row].to(self.v.dtype), self.v))
        return at_hand, self._replace(seen=seen + n)
