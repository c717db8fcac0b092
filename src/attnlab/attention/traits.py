"""What a layer is, told once."""

from dataclasses import dataclass
from typing import Literal

MapKind = Literal["probability", "sub_probability", "nonnegative", "signed", "none"]
Growth = Literal["constant", "window", "linear"]


@dataclass(frozen=True)
class Traits:
    """What a layer is, as the laws, the pictures and the model need to know it.

    `map_kind` says what the weights of its map are, `growth` how what decoding keeps grows. `causal` is False only for
    the worked example of the first chapter; a GPT refuses such a layer. `learns_recall` is False for a control, which
    cannot learn to look something up; then a law asserts that it indeed cannot. `reads_positions` is False where
    weights do not come from queries and keys, so that nothing could be rotated or biased: such a layer takes no
    `position`. `jumps` is True where the rule is not continuous, so that rounding moves a few outputs far: then
    bfloat16 is held to be near on average. `reads` names what a layer needs of those below it, as they publish it.
    `limit` is the number of positions it knows, None if any.
    """

    map_kind: MapKind
    growth: Growth
    causal: bool = True
    learns_recall: bool = True
    reads_positions: bool = True
    jumps: bool = False
    reads: tuple[str, ...] = ()
    limit: int | None = None

    def __or__(self, other: "Traits") -> "Traits":
        """What two attentions side by side are together: of maps and states, the kind that is true of both."""
        kinds: list[MapKind] = ["none", "signed", "nonnegative", "sub_probability", "probability"]
        growths: list[Growth] = ["linear", "window", "constant"]
        return Traits(
            min(self.map_kind, other.map_kind, key=kinds.index),
            min(self.growth, other.growth, key=growths.index),
            self.causal and other.causal,
            self.learns_recall or other.learns_recall,
            self.reads_positions or other.reads_positions,
            self.jumps or other.jumps,
            tuple(dict.fromkeys(self.reads + other.reads)),
            min((limit for limit in (self.limit, other.limit) if limit is not None), default=None),
        )
