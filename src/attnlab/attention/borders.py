"""Borders between the documents of packed rows, inside the chunks of a scan."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


class Borders(NamedTuple):
    """What borders between documents part in each chunk, for all heads."""

    hidden: Bool[Tensor, "b 1 n t t"]  # from each query: later keys, and those of other documents
    entering: Float[Tensor, "b 1 n t 1"]  # 1 for tokens of the document in which the chunk begins, 0 for others
    leaving: Float[Tensor, "b 1 n t 1"]  # 1 for tokens of the one in which it ends

    @classmethod
    def of(cls, starts: Bool[Tensor, "b t"], pad: int, chunk: int, dtype: torch.dtype) -> "Borders":
        """`pad` more tokens belong to the last document."""
        number = F.pad(starts, (0, pad)).unflatten(1, (-1, chunk)).cumsum(dim=-1)[:, None, :, :, None]
        hidden = later(chunk, starts.device) | (number != number.mT)
        return cls(hidden, (number == 0).to(dtype), (number == number[..., -1:, :]).to(dtype))


def later(t: int, device: torch.device) -> Bool[Tensor, "t t"]:
    """Which tokens stand behind each of t tokens."""
    return torch.ones(t, t, dtype=torch.bool, device=device).triu(1)
