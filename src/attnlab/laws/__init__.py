"""The laws that every variant obeys, as functions that judge anybody's variant.

for verdict in examine(subject_of("multi_head")):
    print(verdict.law, verdict.outcome, verdict.detail)
"""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from attnlab.laws.backend_law import backend_equals_mix
from attnlab.laws.costs import cost, state_growth
from attnlab.laws.documentation import explains_itself
from attnlab.laws.extremes import extreme_inputs
from attnlab.laws.formula import stated_formula
from attnlab.laws.learning import learns
from attnlab.laws.map_law import fused_equals_explicit, map_
from attnlab.laws.packed_rows import documents
from attnlab.laws.parameters import half_precision, no_dead_parameter, reproducible
from attnlab.laws.position_law import every_position
from attnlab.laws.sequence import batch_independence, causality, decode, shape
from attnlab.laws.subject import Law, LawBroken, Skipped, Subject, one_line, subject_from, subject_of

__all__ = [
    "LAWS",
    "Law",
    "LawBroken",
    "Skipped",
    "Subject",
    "Verdict",
    "examine",
    "judge",
    "subject_from",
    "subject_of",
]

LAWS: dict[str, Law] = {
    "shape": shape,
    "causality": causality,
    "map": map_,
    "decode": decode,
    "no_dead_parameter": no_dead_parameter,
    "batch_independence": batch_independence,
    "documents": documents,
    "cost": cost,
    "state_growth": state_growth,
    "fused_equals_explicit": fused_equals_explicit,
    "backend_equals_mix": backend_equals_mix,
    "reproducible": reproducible,
    "half_precision": half_precision,
    "extreme_inputs": extreme_inputs,
    "every_position": every_position,
    "learns": learns,
    "stated_formula": stated_formula,
    "explains_itself": explains_itself,
}


class Verdict(NamedTuple):
    """What one law says about one variant."""

    law: str
    statement: str  # the law in a sentence
    outcome: Literal["kept", "broken", "skipped"]
    detail: str  # the smallest failing case, or why the law was skipped; empty if it is kept


def judge(name: str, subject: Subject) -> Verdict:
    """One law's verdict. A variant that crashes under a law breaks it."""
    law = LAWS[name]
    statement = (law.__doc__ or "").split("\n")[0]
    try:
        skipped = law(subject)
    except LawBroken as error:
        return Verdict(name, statement, "broken", str(error))
    except Exception as error:  # whatever a stranger's code raises is the verdict on it
        return Verdict(name, statement, "broken", f"{type(error).__name__}: {one_line(error)}")
    return Verdict(name, statement, "skipped", skipped.reason) if skipped else Verdict(name, statement, "kept", "")


def examine(subject: Subject, laws: Iterable[str] = tuple(LAWS)) -> Iterator[Verdict]:
    """The verdicts of these laws, in order, each as soon as it is known."""
    for name in laws:
        yield judge(name, subject)
