"""The types in which sums are made."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocasts(device: torch.device) -> bool:
    """Whether autocast is at work on such a device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def running_sum(x: Tensor, dim: int = -1) -> Tensor:
    """Running sums in float64, of which differences are taken: in float32 they lose a digit where sums are ten times as
    long. An Apple GPU has no float64."""
    return x.cumsum(dim, dtype=x.dtype if x.device.type == "mps" else torch.float64)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off inside the block: for sums kept in float32, and for kernels that are slow in bfloat16."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()
