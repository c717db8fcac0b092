"""What a score modifier may look at."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class ScoreContext(NamedTuple):
    """What a score modifier may look at beside the scores; keys stand in the order of their positions."""

    q: Float[Tensor, "b h t d"]
    k: Float[Tensor, "b h s d"]
    q_pos: Int[Tensor, " t"]
    k_pos: Int[Tensor, " s"]
    visible: Bool[Tensor, "*b t s"]
    scale: float
    asked: Float[Tensor, "b h t e"] | None = None  # what each query brings along for the modifier


class KeyRows(NamedTuple):
    """What a rule for one score may look up, by row of the batch, head and token."""

    carried: Float[Tensor, "b h s e"] | None  # what each key carries along for the modifier
    visible: Int[Tensor, "b t"]  # how many keys each query sees
    asked: Float[Tensor, "b h t e"] | None = None  # what each query brings along for it


OneScore = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(score, row, head, query, key) -> score, each a number: what FlexAttention calls a `score_mod`."""
