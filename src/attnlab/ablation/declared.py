"""What was declared before there were results, beside what a report goes by: what came afterwards is exploratory."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from attnlab.ablation.arms import Arm
from attnlab.ablation.reading import Experiment, Run

KEYS = ("metric", "baseline", "margin", "alpha")
FIRST = "first"  # in manifest.json: what the sweep declared before the experiment's first result


class Term(NamedTuple):
    """One thing that a report goes by, as words; `change` says how it came to differ from what was declared."""

    name: str
    declared: str
    where: str  # it was declared
    used: str
    change: str = ""
    forced: bool = False  # nobody chose to change it

    @property
    def in_a_line(self) -> str:
        """What stands beside a verdict that goes by it; empty if it was declared."""
        return f"{self.name} {self.used} {self.change}" if self.change else ""


def exploratory(terms: Sequence[Term]) -> str:
    """Which of these were chosen after there were results, in a line; empty if none was."""
    chosen = [term.in_a_line for term in terms if term.change and not term.forced]
    return f"exploratory: {', '.join(chosen)}" if chosen else ""


def first_declared(experiment: Experiment) -> tuple[dict[str, Any], str]:
    """What was declared before the first result, and where: in the manifest, or in the config of the earliest run."""
    if isinstance(first := experiment.declared.get(FIRST), Mapping):
        return {key: first.get(key) for key in KEYS}, "the sweep, before its first result"
    reports = [(_started(run), run.config["report"]) for run in experiment.runs if _declares(run)]
    if reports:
        earliest = min(reports, key=lambda pair: pair[0])[1]
        return {key: earliest.get(key) for key in KEYS}, "the config of the first run"
    return {}, "nowhere"


def _declares(run: Run) -> bool:
    return isinstance(run.config.get("report"), Mapping)


def _started(run: Run) -> datetime:
    try:
        time = datetime.fromisoformat(str(run.summary.get("started")))
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def term(name: str, declared: Any, where: str, used: Any, *, typed: bool, because: str = "") -> Term:
    """One row of the table; `because` gives a reason for a difference that nobody typed."""
    words, using = _in_words(declared), _in_words(used)
    if words == using:
        return Term(name, words, where, using)
    change = because or ("typed after the fact" if typed else "declared after the first result")
    return Term(name, words, where, using, change, bool(because))


def family_term(declared: Sequence[str], where: str, family: Sequence[Arm], *, typed: bool) -> Term:
    """The row of the family: it is the same if it means the same variants, whatever they are called."""
    names = [{c.label, c.variant, c.folder} for c in family]
    same = all(each & {*declared} for each in names) and all(any(name in each for each in names) for name in declared)
    return term("family", list(declared), where, list(declared) if same else [c.label for c in family], typed=typed)


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(sorted(map(str, value))) or "none"
    if isinstance(value, float | int):
        return f"{value:g}"
    return "none" if value is None else str(value)
