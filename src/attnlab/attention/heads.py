"""Queries, keys and values of several heads."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor

from attnlab.attention.documents import Documents
from attnlab.attention.uncompiled import uncompiled
from attnlab.errors import UsageError
from attnlab.options import OptionError


class Heads(NamedTuple):
    """What `project` makes of a sequence: queries, keys, values, and whatever else mixing and merging need.

    What no field here is meant for, a variant puts in a NamedTuple of tensors of its own: `own`, whose first axis is
    that of the rows, and the one before the last that of the tokens.
    """

    q: Float[Tensor, "b h t d"]
    k: Float[Tensor, "b g s d"]
    v: Float[Tensor, "b g s v"]
    tail: Tensor | None = None  # what a short convolution remembers after these tokens
    carried: Float[Tensor, "b h s e"] | None = None  # what each key carries along for score modifiers
    asked: Float[Tensor, "b h t e"] | None = None  # what each query brings along for them
    log_q: Float[Tensor, "b h t f"] | None = None  # the logarithms of features that float32 does not hold
    log_k: Float[Tensor, "b h s f"] | None = None
    log_decay: Float[Tensor, "b h t *d"] | None = None
    beta: Float[Tensor, "b h t"] | None = None  # how strongly a token is written
    gate: Tensor | None = None  # what `merge` multiplies by, or makes it of
    own: Any = None
    documents: Documents | None = None  # those of the rows, where `mix` takes whole rows (`mixes_rows`)

    def beside(self) -> dict[str, Tensor]:
        """Every tensor beside queries, keys and values by name, those of `own` among them."""
        fields = self._asdict() | ({} if self.own is None else self.own._asdict())
        return {name: x for name, x in fields.items() if isinstance(x, Tensor) and name not in ("q", "k", "v")}

    def apart(self, documents: Documents) -> list["Heads"]:
        """What mixes tokens, for each batch of documents; what serves `merge` alone is left out."""
        axes = {
            "q": -2,
            "k": -2,
            "v": -2,
            "carried": -2,
            "asked": -2,
            "log_q": -2,
            "log_k": -2,
            "log_decay": 2,
            "beta": 2,
        }
        fields: dict[str, Any] = {
            name: documents.apart(x, axes[name]) for name, x in self._asdict().items() if name in axes and x is not None
        }
        own = [None] * len(documents.batches)
        if self.own is not None:
            own = [type(self.own)(*parts) for parts in zip(*(documents.apart(x, -2) for x in self.own), strict=True)]
        return [Heads(**{name: x[i] for name, x in fields.items()}, own=own[i]) for i in range(len(own))]


Kernel = Callable[[Any, Heads, Documents | None], Tensor]
"""(layer, heads, documents) -> what the layer's `mix` gives of them, by other code; of each document alone."""


@uncompiled  # batches of documents are others in each pass
def mix_apart(mix: Callable[[Heads], Tensor], heads: Heads, documents: Documents) -> Float[Tensor, "b h t v"]:
    """What `mix` makes of each document alone."""
    return documents.together([mix(part) for part in heads.apart(documents)], 2)


def indivisible(n_heads: int, width: int) -> UsageError:
    """Heads that do not divide a width, and which would."""
    fits = [n for n in range(1, min(width, 64) + 1) if width % n == 0]
    return UsageError(f"n_heads ({n_heads}) must divide d_model ({width}); try n_heads in {fits}")


def unshared(n_kv_heads: int, n_heads: int) -> OptionError:
    """Heads of keys and values that query heads cannot share evenly, and how many they could share."""
    fits = [n for n in range(1, n_heads + 1) if n_heads % n == 0]
    return OptionError("n_kv_heads", n_kv_heads, f"must divide n_heads ({n_heads}); try n_kv_heads in {fits}")


def split_heads(y: Float[Tensor, "b t hd"], n: int) -> Float[Tensor, "b h t d"]:
    """(b, t, h * d) -> (b, h, t, d)."""
    return y.unflatten(-1, (n, -1)).transpose(1, 2)


def join_heads(o: Float[Tensor, "b h t d"]) -> Float[Tensor, "b t hd"]:
    """(b, h, t, d) -> (b, t, h * d)."""
    return o.transpose(1, 2).flatten(2)


def per_query_head(x: Shaped[Tensor, "b g *rest"], n_heads: int) -> Shaped[Tensor, "b h *rest"]:
    """What each query head reads of the key/value heads; where each has one of its own, nothing is copied."""
    return x if x.size(1) == n_heads else x.repeat_interleave(n_heads // x.size(1), dim=1)
