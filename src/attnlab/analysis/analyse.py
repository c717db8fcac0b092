"""The report of an experiment, computed: its runs are read and compared. Only the count of looks is written.

`attnlab report experiment=runs/<experiment>` shows it and writes its pages (`publish`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attnlab.analysis import preregister
from attnlab.analysis.aggregates import Aggregate, Solved, over_tasks, solved
from attnlab.analysis.arms import (
    USUAL_BASELINE,
    Arm,
    Arms,
    Block,
    BlockDesign,
    choose_baseline,
    needs_bytes,
    pair_with_baselines,
    planned_arms,
)
from attnlab.analysis.compare_arms import compare
from attnlab.analysis.comparison import Comparison, NoiseFloor, Rules, noise_floor
from attnlab.analysis.declared import Term, exploratory, is_declared, seeds_in_order, terms_of
from attnlab.analysis.differences import unequal_conditions, unnamed_differences
from attnlab.analysis.effects import Effects, factorial
from attnlab.analysis.from_runs import arms_of
from attnlab.analysis.looks import Looks, take_look
from attnlab.analysis.metric_names import IN_BYTES, separated
from attnlab.analysis.reading import Experiment, read_experiment
from attnlab.analysis.settings import Options, Settings, resolve, solved_from
from attnlab.config.metric_kinds import check_logged, parse_metric
from attnlab.errors import UsageError
from attnlab.store.preregistration import Preregistration, PreregistrationCheck, read


@dataclass(frozen=True)
class Report:
    """Everything that the pages tell, as numbers."""

    experiment: Experiment
    rules: Rules
    design: BlockDesign
    comparisons: list[Comparison[Arm]]
    floors: dict[Block, NoiseFloor | None]
    effects: Effects | None
    aggregates: list[Aggregate]
    solved: list[Solved]
    solved_at: float | None
    preregistration: PreregistrationCheck | None
    looks: Looks
    terms: list[Term]  # what it goes by, beside what was declared
    code: str  # any: averaged across code

    @property
    def baseline(self) -> Arm:
        """The baseline, or that of the first block."""
        return next(iter(self.design.baselines.values()))


def analyse(folder: Path | str, options: Options | None = None, *, counts: bool = True) -> Report:
    """Read and compare; refuses a baseline, a family or a metric that is not there. A look that nobody sees counts as
    none (`counts` False)."""
    typed = options or Options()
    check = read(folder)
    registered = check.preregistration if check else None
    experiment, settings = _read(Path(folder), typed, registered)
    asked, because = settings, ""
    arms, design = _arrange(experiment, settings, typed.code)
    if needs_bytes(settings.metric, design.incomparable):
        settings = settings._replace(metric=IN_BYTES, margin=None)  # a margin is one of its unit
        because = "because losses of different tokenizers are no numbers of one kind"
        experiment = read_experiment(folder, IN_BYTES)
        arms, design = _arrange(experiment, settings, typed.code)
    _check_family(settings.family, design)
    declared = is_declared(experiment, registered, asked.metric)
    looks = Looks(1, 1, [])
    if counts and _has_pairs(design):
        looks = take_look(experiment, settings.metric, is_declared=declared)
    if in_order := seeds_in_order(experiment):
        beyond = len({run.seed for run in experiment.runs if run.seed is not None}) > in_order
        looks = looks._replace(number=2 if beyond else 1, declared=1, in_order=in_order)
    rules = _rules(experiment, settings, typed, looks)
    terms = terms_of(experiment, typed, registered, asked, rules, arms, design, because)
    used = _used(settings, design)
    threshold = solved_from(experiment, typed.solved)
    lower, alpha = rules.lower_is_better, rules.alpha
    return Report(
        experiment,
        rules,
        design,
        [_remarked(c, terms) for c in compare(design.pairs(), rules)],
        {block: noise_floor(arm.results, alpha) for block, arm in design.baselines.items()},
        None if rules.censored else _effects(design, alpha),
        [] if rules.censored else over_tasks(design, lower, alpha),
        [] if threshold is None else solved(design.arms, threshold, alpha),
        threshold,
        preregister.check(folder, used, experiment.runs, _names(design, registered)),
        looks,
        terms,
        typed.code,
    )


def _read(folder: Path, typed: Options, registered: Preregistration | None) -> tuple[Experiment, Settings]:
    """The experiment with the metric that is compared, and what the report goes by."""
    experiment = read_experiment(folder, resolve(typed, registered, None).metric)
    settings = resolve(typed, registered, experiment)
    if settings.metric != experiment.metric:
        experiment = read_experiment(folder, settings.metric)
    if all(run.curve is None for run in experiment.runs) and experiment.logged:
        check_logged(settings.metric, experiment.logged)
    return experiment, settings


def _arrange(experiment: Experiment, settings: Settings, code: str) -> tuple[Arms, BlockDesign]:
    """The arms of the experiment, each with its baseline."""
    arms = arms_of(experiment, parse_metric(settings.metric).lower_is_better, settings.alpha, code)
    members = [*arms.arms, *arms.single_rates]
    declared = experiment.declared.get("baseline")
    name = choose_baseline(members, settings.baseline, declared, planned_arms(arms.arms))
    return arms, pair_with_baselines(arms, name, separated(settings.metric))


def _rules(experiment: Experiment, settings: Settings, typed: Options, looks: Looks) -> Rules:
    metric = parse_metric(settings.metric)
    return Rules(
        metric.lower_is_better,
        settings.alpha,
        settings.margin,
        settings.family,
        (0.0, 1.0) if metric.is_share else None,
        typed.solved,
        experiment.is_planned,
        looks.declared,
        looks.number,
        solvable=metric.solvable,
        censored=metric.course == "steps",
        judges=metric.judges,
        sequential=bool(looks.in_order),
        metrics=len(looks.metrics),
    )


def _effects(design: BlockDesign, alpha: float) -> Effects | None:
    """Main effects and interactions, where all arms are of one block and none is without a result."""
    members = [arm for arm in design.arms if arm.block in design.baselines]
    if len(design.baselines) > 1 or not all(arm.finished for arm in members):
        return None
    return factorial(members, next(iter(design.baselines.values())), alpha)


def _remarked(comparison: Comparison[Arm], terms: Sequence[Term]) -> Comparison[Arm]:
    """The comparison, with what a reader must know besides: settings and conditions in which its two sides differ, and
    what it goes by that was not declared."""
    remarks, marks = list(comparison.remarks), list(comparison.marks)
    if settings := unnamed_differences(comparison.arm, comparison.baseline):
        remarks.append(f"differs from the baseline in {', '.join(settings)}, too")
    runs = [run for arm in (comparison.arm, comparison.baseline) for run in arm.finished.values()]
    if runs and all(run.summary.get("computes") == USUAL_BASELINE for run in runs):
        remarks.append("computes what the baseline does at these sizes")
    if after := exploratory(terms):
        marks.append(after)
    marks += [each.in_a_line for each in terms if each.forced and each.name == "metric"]
    if conditions := unequal_conditions(comparison):
        marks.append(f"not under equal conditions: {', '.join(conditions)}")
    return replace(comparison, remarks=tuple(remarks), marks=tuple(marks))


def _has_pairs(design: BlockDesign) -> bool:
    """Whether there is anything to see: two seeds of a variant and its baseline."""
    return any(len(arm.finished.keys() & baseline.finished.keys()) > 1 for arm, baseline in design.pairs())


def _check_family(family: Iterable[str], design: BlockDesign) -> None:
    names = {name for arm in design.arms for name in arm.names}
    if wrong := [name for name in family if name not in names]:
        variants = ", ".join(dict.fromkeys(arm.variant for arm in design.arms))
        raise UsageError(f"family ({', '.join(wrong)}) is not in this experiment (choose from: {variants})")


def _names(design: BlockDesign, registered: Preregistration | None) -> list[str]:
    """What the arms are called: by the name that was preregistered, if one was."""
    names = {*registered.family, registered.baseline} if registered else set()
    return list(dict.fromkeys(arm.folder if arm.folder in names else arm.variant for arm in design.arms))


def _used(settings: Settings, design: BlockDesign) -> Preregistration:
    """What the report goes by, in the form in which it would have been preregistered."""
    family = settings.family or tuple(dict.fromkeys(arm.variant for arm, _ in design.pairs()))
    name = settings.baseline or next(iter(design.baselines.values())).variant
    return Preregistration("", name, settings.metric, settings.margin, settings.alpha, [], list(family))
