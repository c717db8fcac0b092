"""Positions inside attention: what a layer asks of one."""

from abc import ABC
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.attention.documents import Start, say_again
from attnlab.errors import UsageError
from attnlab.options import Configurable, Count, given


class Position(Configurable, nn.Module, ABC):
    """Position information used inside attention.

    Built per layer as factory(head_dim=, n_heads=, context=). `hooks` names what a subclass needs of the attention:
    "rotate" (queries and keys), "bias" (add to the scores), or "widen" (what it rotates becomes `rotated_dim` wide).
    Positions are absolute, counted from 0. `of_distance` says that a bias depends on nothing but how far a key is
    behind the query. `documents` says whether what it writes takes documents where the first position stands.
    """

    documents: ClassVar[bool] = True
    seams: ClassVar[tuple[str, ...]] = ("rotate", "bias")
    hooks = frozenset[str]()
    of_distance = False

    head_dim: Count = given(doc="Width of what is rotated.")
    n_heads: Count = given(doc="Query heads.")
    context: Count = given(doc="Tokens that the model is made for.")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        say_again(cls, "rotate", "rotate_keys")

    def check_hooks(self, offered: frozenset[str], layer: str) -> None:
        """Refuse a kind of layer that does not offer a hook which this position works through."""
        if missing := self.hooks - offered:
            raise UsageError(
                f"position.inside ({type(self).__name__}) works through {' and '.join(sorted(missing))}, but "
                f"{layer} offers only {' and '.join(sorted(offered)) or 'no hook'}: "
                "choose another position= (learned, sinusoidal and none, which act outside the layers, always fit)"
            )

    def rotated_dim(self, head_dim: int) -> int:
        """How wide queries and keys of this width are when they are rotated."""
        return head_dim

    def rotate(self, x: Float[Tensor, "b h n d"], start: Start = 0) -> Float[Tensor, "b h n d"]:
        """Rotate queries that stand at positions start .. start + n."""
        return x

    def rotate_keys(self, x: Float[Tensor, "b h n d"], start: Start = 0) -> Float[Tensor, "b h n d"]:
        """Rotate keys that stand at positions start .. start + n: as queries, unless a rule tells them apart."""
        return self.rotate(x, start)

    def bias(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "h t s"] | None:
        """What to add to the scores of queries at q_pos for keys at k_pos."""
        return None


class NoPE(Position):
    """No position inside attention (arXiv 2305.19466)."""

    neutral = True
