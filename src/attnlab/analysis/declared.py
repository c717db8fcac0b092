"""What was declared before there were results, beside what a report goes by: what came afterwards is exploratory."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from attnlab.analysis.arms import Arm, Arms, BlockDesign, arms_called, choose_baseline, planned_arms
from attnlab.analysis.comparison import Rules
from attnlab.analysis.metric_names import IN_SUMMARY
from attnlab.analysis.reading import Experiment, Run
from attnlab.analysis.settings import USUAL_ALPHA, Options, Settings, solved_from, usual_metric
from attnlab.errors import UsageError
from attnlab.store.names import PREREGISTRATION
from attnlab.store.preregistration import Preregistration

KEYS = ("metric", "baseline", "margin", "alpha")
IN_ORDER = ("sequential", "seeds")  # declared besides where seeds are judged one after the other
MEASURED_ONCE = "measured on the test part, once"
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


def terms_of(
    experiment: Experiment,
    typed: Options,
    registered: Preregistration | None,
    asked: Settings,
    rules: Rules,
    arms: Arms,
    design: BlockDesign,
    because: str,
) -> list[Term]:
    """What the report goes by, beside what was declared before the first result. `asked` is what it would have gone by,
    and `because` says why it did not."""
    declared, where = first_declared(experiment)
    if registered is not None:
        declared, where = registered._asdict(), PREREGISTRATION
    metric = IN_SUMMARY.get(str(declared.get("metric")), declared.get("metric")) or usual_metric(experiment)
    margin = declared.get("margin")
    forced = because if metric == asked.metric else MEASURED_ONCE if experiment.metric == _tested(metric) else ""
    lost = f"{because}, and a margin is one of its unit" if because and typed.margin in (None, margin) else ""
    used = _labels(list(design.baselines.values()))
    baseline = _baseline(declared.get("baseline"), arms, design, experiment)
    return [
        _term("metric", metric, where, experiment.metric, typed=typed.metric is not None, because=forced),
        _term("baseline", baseline, where, used, typed=typed.baseline is not None),
        _term("margin", margin, where, rules.margin, typed=typed.margin is not None, because=lost),
        _term("alpha", declared.get("alpha") or USUAL_ALPHA, where, rules.alpha, typed=typed.alpha is not None),
        _family(registered, where, rules, design, typed=bool(typed.family)),
        *([_solved(experiment, typed.solved)] if rules.bounds is not None else []),
    ]


def _solved(experiment: Experiment, typed: float | None) -> Term:
    """The row of the threshold from which a task counts as solved: the task declares it."""
    declared, used = solved_from(experiment), solved_from(experiment, typed)
    return _term("solved", declared, "the task", used, typed=typed is not None)


def _baseline(declared: Any, arms: Arms, design: BlockDesign, experiment: Experiment) -> Any:
    """The baseline that was declared, or that is taken where none was, by its label where the name means one arm."""
    members = [*arms.arms, *arms.single_rates]
    try:
        name = choose_baseline(members, declared, experiment.declared.get("baseline"), planned_arms(arms.arms))
    except UsageError:
        return declared
    meant = arms_called(arms.arms, name) or arms_called(arms.single_rates, name)
    if {arm.folder for arm in meant} == {arm.folder for arm in design.baselines.values()}:
        return _labels(list(design.baselines.values()))
    return meant[0].label if len(meant) == 1 else name


def _labels(arms: Sequence[Arm]) -> str:
    return ", ".join(dict.fromkeys(arm.label for arm in arms))


def first_declared(experiment: Experiment) -> tuple[dict[str, Any], str]:
    """What was declared before the first result, and where: in the manifest, or in the config of the earliest run."""
    if isinstance(first := experiment.declared.get(FIRST), Mapping):
        terms = {key: first.get(key) for key in KEYS} | {key: first[key] for key in IN_ORDER if key in first}
        return terms, "the sweep, before its first result"
    reports = [(_started(run), run.report) for run in experiment.runs if run.report]
    if reports:
        earliest = min(reports, key=lambda pair: pair[0])[1]
        return {key: earliest.get(key) for key in KEYS}, "the config of the first run"
    return {}, "nowhere"


def is_declared(experiment: Experiment, registered: Preregistration | None, metric: str) -> bool:
    """Whether somebody named this metric before the first result, or it is the experiment's own of the test part."""
    named = first_declared(experiment)[0].get("metric") if registered is None else registered.metric
    named = IN_SUMMARY.get(str(named), named)
    return metric in (named, _tested(named or usual_metric(experiment)))


def _tested(metric: Any) -> str:
    """The same metric, of the test part."""
    return str(metric).replace("val/", "test/", 1)


def seeds_in_order(experiment: Experiment) -> int:
    """Up to how many seeds are judged one after the other, if that was declared before the first result; else 0."""
    first, _ = first_declared(experiment)
    seeds = first.get("seeds")
    return seeds if first.get("sequential") is True and isinstance(seeds, int) else 0


def _started(run: Run) -> datetime:
    try:
        time = datetime.fromisoformat(str(run.summary.get("started")))
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _term(name: str, declared: Any, where: str, used: Any, *, typed: bool, because: str = "") -> Term:
    """One row of the table; `because` gives a reason for a difference that nobody typed."""
    before, now = _in_words(declared), _in_words(used)
    if before == now:
        return Term(name, before, where, now)
    change = because or ("typed after the fact" if typed else "declared after the first result")
    return Term(name, before, where, now, change, bool(because))


def _family(registered: Preregistration | None, where: str, rules: Rules, design: BlockDesign, *, typed: bool) -> Term:
    """The row of the family: it is the same if it means the same variants, whatever they are called."""
    everyone = [arm for arm, _ in design.pairs()]
    family = [arm for arm in everyone if not rules.family or arm.names & {*rules.family}]
    declared = registered.family if registered is not None else [arm.label for arm in everyone]
    same = all(arm.names & {*declared} for arm in family) and all(
        any(name in arm.names for arm in family) for name in declared
    )
    used = list(declared) if same else [arm.label for arm in family]
    return _term("family", list(declared), where, used, typed=typed)


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(sorted(map(str, value))) or "none"
    if isinstance(value, float | int):
        return f"{value:g}"
    return "none" if value is None else str(value)
