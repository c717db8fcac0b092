"""Which keys a query may read."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from attnlab.errors import UsageError


class Mask(nn.Module):
    """A rule over absolute positions. `kept` is how many keys a later query may still read; None means all of them.

    A mask whose `kept` is a number also says, in `held`, which position each of that many slots stores while decoding:
    by default a ring, position p in slot p % kept.
    """

    causal = True
    kept: int | None = None

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        raise NotImplementedError

    def held(self, seen: int, device: torch.device) -> Int[Tensor, " slots"]:
        """The position each slot stores after `seen` tokens, -1 where it is still empty."""
        assert self.kept is not None
        slot = torch.arange(self.kept, device=device)
        latest = seen - 1 - (seen - 1 - slot) % self.kept
        return torch.where(latest >= 0, latest, -1)


class Causal(Mask):
    """Every key up to and including the query's own position: j <= i."""

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        return k_pos[None, :] <= q_pos[:, None]


class Full(Mask):
    """Every key, later ones too: the chapter's first examples. A language model could read the answer."""

    causal = False

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        return torch.ones(q_pos.numel(), k_pos.numel(), dtype=torch.bool, device=q_pos.device)


class Window(Mask):
    """The last `window` keys, the token itself included: i - window < j <= i.

    Source: Longformer, arXiv 2004.05150. Decoding keeps a ring of `window` rows.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        if window < 1:
            raise UsageError(f"window ({window}) must be at least 1: it counts the token itself")
        self.window = self.kept = window

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        distance = q_pos[:, None] - k_pos[None, :]
        return (distance >= 0) & (distance < self.window)
