"""Several score modifiers of one layer: which go together, and what each of them is handed."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from attnlab.attention.score import Score
from attnlab.errors import UsageError


def check_chain(mods: Sequence[Score], *, asks: bool, layer: str) -> None:
    """Refuse modifiers of which two set the scale or make the scores, or that need of queries what a layer lacks."""
    scales = dict.fromkeys(type(mod).__name__ for mod in mods if mod.scale is not None)
    if len(scales) > 1:
        raise UsageError(f"attention/score holds {' and '.join(scales)}, which both set the scale; keep one of them")
    if len(makers := [type(mod).__name__ for mod in mods if mod.makes_scores]) > 1:
        raise UsageError(f"attention/score holds {' and '.join(makers)}, which both make the scores; keep one of them")
    if names := [type(mod).__name__ for mod in mods if mod.query_extras and not asks]:
        raise UsageError(
            f"attention/score ({names[0]}) needs numbers of each query, which {layer} does not make: use it with "
            "attention=multi_head, or remove it"
        )


def of_each(numbers: Tensor | None, sizes: dict[Score, int]) -> dict[Score, Float[Tensor, "b h t e"]]:
    """What stands side by side in `numbers`, for each modifier that has some there."""
    sizes = {mod: size for mod, size in sizes.items() if size}
    if numbers is None or not sizes:
        return {}
    parts = numbers[..., : sum(sizes.values())].split(list(sizes.values()), dim=-1)
    return dict(zip(sizes, parts, strict=True))
