"""What a layer is, told once."""

import re
from dataclasses import dataclass
from typing import Literal

MapKind = Literal["probability", "sub_probability", "nonnegative", "signed", "none"]
Growth = Literal["constant", "window", "linear"]
RULE = re.compile(r"Rule: (.+?)(?<![\s.])\.(?=\s|$)")  # dots with a space before them, and ... , are of the formula


def rule_of(kind: type) -> str:
    """The formula in a class's own docstring, its sentence that begins with `Rule:`; empty without one."""
    match = RULE.search(" ".join((vars(kind).get("__doc__") or "").split()))
    return match[1] if match else ""


@dataclass(frozen=True)
class Traits:
    """What a layer is, as the laws, the pictures and the model need to know it.

    `map_kind` says what the weights of its map are, `growth` how what decoding keeps grows. `causal` is False only for
    the worked example of the first chapter; a GPT refuses such a layer. `can_recall` is False for a control, which
    cannot learn to look something up; then a law asserts that it indeed cannot. `uses_position` is False where
    weights do not come from queries and keys, so that nothing could be rotated or biased: such a layer takes no
    `position`. `discontinuous` says that rounding may move a few outputs far: then bfloat16 is held to be near on
    average. `requires` are the records that a layer needs of those below it, by the class that they publish.
    `limit` is the number of positions it knows, None if any.
    """

    map_kind: MapKind
    growth: Growth
    causal: bool = True
    can_recall: bool = True
    uses_position: bool = True
    discontinuous: bool = False
    requires: tuple[type, ...] = ()
    limit: int | None = None

    def __or__(self, other: "Traits") -> "Traits":
        """What two attentions side by side are together: of maps and states, the kind that is true of both."""
        kinds: list[MapKind] = ["none", "signed", "nonnegative", "sub_probability", "probability"]
        growths: list[Growth] = ["linear", "window", "constant"]
        return Traits(
            min(self.map_kind, other.map_kind, key=kinds.index),
            min(self.growth, other.growth, key=growths.index),
            self.causal and other.causal,
            self.can_recall or other.can_recall,
            self.uses_position or other.uses_position,
            self.discontinuous or other.discontinuous,
            tuple(dict.fromkeys(self.requires + other.requires)),
            min((limit for limit in (self.limit, other.limit) if limit is not None), default=None),
        )
