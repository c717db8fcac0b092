"""Numbers, intervals and verdicts as they are written in a report."""

from collections.abc import Sequence

from attnlab.ablation.comparison import CANNOT_TELL, Comparison
from attnlab.ablation.statistics import MOST_SEEDS, Seeds

MOST_LISTED = 40  # rows of what has no result
ENOUGH_FOR_A_SPREAD = 6  # seeds; below, what would be needed is known as a range at best


def number(x: float | None, *, signed: bool = False) -> str:
    """A number with the digits that matter."""
    if x is None:
        return ""
    digits = 4 if abs(x) < 100 else 1
    if x and abs(x) < 5e-4:
        return f"{x:+.1e}" if signed else f"{x:.1e}"
    return f"{x:+.{digits}f}" if signed else f"{x:.{digits}f}"


def p_value(p: float | None) -> str:
    """A p with two digits that matter, and never a 0."""
    if p is None:
        return ""
    return "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def span(interval: Sequence[float] | None, *, signed: bool = True) -> str:
    """An interval."""
    if interval is None:
        return ""
    return f"[{number(interval[0], signed=signed)}, {number(interval[1], signed=signed)}]"


def sentence(c: Comparison) -> str:
    """The verdict, and where it cannot tell, how many seeds could.

    Who adds seeds after the last look that counts has no verdict to expect, so what is said then is no advice: "would
    have".
    """
    if c.verdict != CANNOT_TELL:
        return c.word
    if c.exact_test is None and c.n > 1:
        return f"{CANNOT_TELL} ({impossible(c.planned, c.fewest_seeds)})"
    would, call = ("would have", "called") if c.last_look else ("would", "call")
    options = []
    if c.seeds_needed is not None:
        options.append(f"{_seeds(c.seeds_needed, c.n)} {would}, if the difference is as seen")
    if c.seeds_for_equivalence is not None:
        options.append(f"{_seeds(c.seeds_for_equivalence, c.n)} {would} {call} it equivalent, if there is none")
    return f"{c.word} ({'; '.join(options)})" if options else c.word


def impossible(planned: int, fewest: int) -> str:
    """What to say of seeds that are too few for any verdict."""
    return f"no verdict is possible with {planned} seeds; {fewest} are the fewest"


def _seeds(seeds: Seeds, n: int) -> str:
    """How many seeds: first the number for the spread as seen, or with few seeds the range that the spread leaves."""
    low, as_seen, high = (
        f"more than {MOST_SEEDS:,}" if x is None else str(x) for x in (seeds.low, seeds.as_seen, seeds.high)
    )
    span = low if low == high else f"{low} to {high}"
    if n < ENOUGH_FOR_A_SPREAD:
        return f"{span} seeds ({as_seen} for the spread as seen)"
    return f"{as_seen} seeds ({span} for what the spread may be)"


def line(c: Comparison) -> str:
    """What stands in the verdict's line: the verdict in words, and what it goes by that was not declared or equal."""
    return "; ".join([sentence(c), *c.marks])


def name_of(c: Comparison) -> str:
    """The variant, with the setting of its block."""
    return " ".join(filter(None, (c.arm.label, c.arm.setting)))
