"""Tuning: every variant at the same settings or its own, the better half of them longer, and what won for each.

A trial is one setting with all tuning seeds; its score is their mean. All trials run at the first budget of steps, the
best 1 / `keep_one_in` of them at the next (successive halving, arXiv 1502.07943), each from its own start, so that the
schedule fits the budget.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from rich.console import Console

from attnlab.analysis import tuned_variants
from attnlab.analysis.groups import RATE
from attnlab.analysis.lr_curve import FEWEST_RATES, Search
from attnlab.analysis.reading import Experiment, read_experiment
from attnlab.analysis.report.charts import lr_curves
from attnlab.analysis.report.document import table
from attnlab.analysis.report.format import number
from attnlab.analysis.report.tables import draw
from attnlab.analysis.tuned_variants import STEPS, TunedVariant, as_typed, ranked, spelled
from attnlab.config.compose import compose_config
from attnlab.config.messages import explain
from attnlab.config.metric_kinds import parse_metric
from attnlab.config.tuned_settings import is_tunable
from attnlab.errors import UsageError
from attnlab.machine.environment import harmless
from attnlab.options.rules import MOST_SEED, parse_integers
from attnlab.store.files import write_atomically
from attnlab.sweep.command import train_design
from attnlab.sweep.search_space import Proposals, SearchSpace, Settings, read_space

USUAL_SPACE, USUAL_SEEDS = f"{RATE}=3e-4,1e-3,3e-3,1e-2", "100-102"
ALPHA = 0.05
WIDTH_OF_A_COLUMN = 14  # of a table that goes into a file or a pipe
BETWEEN = " | "  # the words of an arm and those of a trial, in the name of a level
LEAST_KEPT = 2  # settings of the last budget: of one alone nobody could say that it wins again
OURS = {  # words that the command itself writes, and what says them instead
    "seed": "seeds=",
    STEPS: "budgets=",
    "tuned": "experiment=runs/<experiment>",
    "experiment_name": "experiment=runs/<experiment>",
    "paths.runs": "experiment=runs/<experiment>",
    "sweep": "over=",
    "hydra.launcher.n_jobs": "n_jobs=",
}


class Budget(NamedTuple):
    """What is spent: so many settings, the steps of each round, and which part of the settings goes on."""

    trials: int  # 0: the whole grid, or 16 settings where there is a range
    steps: tuple[int, ...]  # (): half of trainer.max_steps, and all of them
    keep_one_in: int
    extend: int  # how many learning rates are added at an edge of their list where the best one lies


class Rounds(NamedTuple):
    """What all sweeps of a tuning experiment share."""

    folder: Path
    metric: str
    lower: bool
    over: tuple[str, ...]
    seeds: Sequence[int]
    arms: Mapping[str, Settings]  # what sets variants apart, as it is typed, by its spelling
    common: Sequence[str]
    n_jobs: int | None
    levels: dict[int, dict[str, Settings]]  # by steps, what was asked for so far

    def sweep(self, asked: Mapping[str, Sequence[Settings]], steps: int) -> None:
        """Run settings of arms, in a design that names all of this budget; what is finished is not run again."""
        levels = self.levels.setdefault(steps, {})
        before = len(levels)
        for arm, trials in asked.items():
            for settings in trials:
                levels[f"{arm}{BETWEEN}{spelled(settings)}"] = {**self.arms[arm], **settings}
        if len(levels) == before:  # a batch may bring no setting that is new
            return
        design = {"design": "grid", "axes": {"trial": levels}, "seeds": list(self.seeds)}
        train_design(self.folder, f"steps_{steps}", design, [*self.common, f"{STEPS}={steps}"], n_jobs=self.n_jobs)

    def read(self, most: int) -> dict[str, TunedVariant]:
        """The variants by their arms, as the manifest tells, with what they came to at budgets up to `most` steps."""
        experiment = read_experiment(self.folder, self.metric)
        entries = tuned_variants.read_tuning(experiment, self.lower, ALPHA, self.over, most=most)
        names = {
            str(run["folder"]).partition("/")[0]: str(run["levels"]["trial"]).partition(BETWEEN)[0]
            for run in experiment.folder.manifest.read()["runs"]
            if run.get("folder") and "trial" in (run.get("levels") or {})
        }
        groups = [(entry, group) for entry in entries for trial in entry.trials for group in trial.groups.values()]
        by_arm = {names.get(group.folder): entry for entry, group in groups}
        return {arm: by_arm[arm] for arm in self.arms if arm in by_arm}


def tune(
    folder: Path,
    metric: str,
    over: str,
    seeds: str,
    budget: Budget,
    n_jobs: int | None,
    overrides: Sequence[str],
) -> None:
    """Run what is not there yet if anything is named to be tuned, read what is there, and write tuned.yaml."""
    lower = parse_metric(metric).lower_is_better
    chosen = parse_integers("seeds", seeds, most=MOST_SEED, like=f"{USUAL_SEEDS} or 7,9")
    if not overrides and not over:
        experiment = read_experiment(folder, metric)
        _print_tuning(experiment, tuned_variants.read_tuning(experiment, lower, ALPHA), lower)
        return
    space = read_space(over or USUAL_SPACE)
    _check(space, overrides)
    arms, common = _arms(overrides)
    steps = _budgets(budget.steps, common)
    proposals = {arm: Proposals(space, budget.trials, lower_is_better=lower) for arm in arms}
    how, n = next((each.how, each.trials) for each in proposals.values())
    print(
        f"{how}: {_plan(n, steps, budget.keep_one_in)}; {len(arms)} variants, means over {len(chosen)} seeds",
        flush=True,
    )
    common = [word for word in common if not word.startswith(f"{STEPS}=")]
    rounds = Rounds(folder, metric, lower, tuple(space.values), chosen, arms, common, n_jobs, {})
    entries = _first_round(rounds, space, proposals, steps[0], budget.extend)
    for before, now in itertools.pairwise(steps):
        n = _next(n, budget.keep_one_in)
        best = {arm: ranked(entry.trials, before, lower)[:n] for arm, entry in entries.items()}
        rounds.sweep({arm: [trial.settings for trial in trials] for arm, trials in best.items()}, now)
        entries = rounds.read(now)
    experiment = read_experiment(folder, metric)
    _print_tuning(experiment, tuned_variants.read_tuning(experiment, lower, ALPHA, rounds.over), lower, str(space), how)


def _next(n: int, keep_one_in: int) -> int:
    """How many of n settings go on."""
    return min(n, max(LEAST_KEPT, math.ceil(n / keep_one_in)))


def _plan(n: int, steps: Sequence[int], keep_one_in: int) -> str:
    parts = []
    for each in steps:
        parts.append(f"{n} for {each} steps")
        n = _next(n, keep_one_in)
    return ", the best ".join(parts)


def _check(space: SearchSpace, overrides: Sequence[str]) -> None:
    rates = space.values.get(RATE)
    if list(space.values) == [RATE] and isinstance(rates, list) and len(rates) < FEWEST_RATES:
        raise UsageError(
            f"over ({space}) must name at least {FEWEST_RATES} rates: fewer do not show where the best one lies"
        )
    if isinstance(rates, list) and not all(type(rate) in (int, float) and 0 < rate < math.inf for rate in rates):
        raise UsageError(f"over ({space}): {RATE} must be numbers above 0")
    typed = [word.partition("=")[0].lstrip("+~") for word in overrides]
    for key, word in [*zip(typed, overrides, strict=True), *((key, f"over={space}") for key in space.values)]:
        if key in OURS and not (key == STEPS and word in overrides):
            raise UsageError(f"{word}: leave {key} out; {OURS[key]} says it")
    for key in space.values:
        if key in typed:
            raise UsageError(f"{key} is tuned (over={space}): leave it out of the settings")
        if not is_tunable(key):
            raise UsageError(f"over ({space}): {key} chooses a file; tune a value, such as {RATE}")
    if (size := space.size) is not None and size < LEAST_KEPT:
        raise UsageError(f"over ({space}) must name two settings or more")


def _arms(overrides: Sequence[str]) -> tuple[dict[str, Settings], list[str]]:
    """What was typed, taken apart: what sets arms apart, and the words that all have in common."""
    try:
        typed = OverridesParser.create().parse_overrides(list(overrides))
        jobs = BasicSweeper.split_arguments(typed, None)[0]
        common = [word for word in jobs[0] if all(word in each for each in jobs)]
        own = [OverridesParser.create().parse_overrides([w for w in each if w not in common]) for each in jobs]
    except HydraException as error:
        raise UsageError(explain(error, overrides)) from error
    settings = [{word.get_key_element(): word.value() for word in each} for each in own]
    return {spelled(each): each for each in settings}, common


def _budgets(steps: Sequence[int], common: Sequence[str]) -> tuple[int, ...]:
    """The steps of each round: what was typed, or half of those of a run and all of them."""
    if steps:
        if list(steps) != sorted(set(steps)) or steps[0] < 1:
            raise UsageError(f"budgets ({','.join(map(str, steps))}) must be steps that rise, such as 200,400")
        if any(word.startswith(f"{STEPS}=") for word in common):
            raise UsageError(f"budgets ({','.join(map(str, steps))}) says how many steps: leave {STEPS} out")
        return tuple(steps)
    whole = compose_config(common).trainer.max_steps
    return (max(1, whole // 2), whole) if whole > 1 else (whole,)


def _first_round(
    rounds: Rounds, space: SearchSpace, proposals: Mapping[str, Proposals], steps: int, extend: int
) -> dict[str, TunedVariant]:
    """All settings at the first budget: those of each variant as its own results suggest, or a grid that is widened."""
    entries: dict[str, TunedVariant] = {}
    for n in next(iter(proposals.values())).batches():
        rounds.sweep({arm: each.ask(n) for arm, each in proposals.items()}, steps)
        entries = rounds.read(steps)
        for arm, entry in entries.items():
            proposals[arm].tell({str(t): t.scores[steps].mean for t in entry.trials if steps in t.scores})
    rates = space.values.get(RATE)
    is_list = isinstance(rates, list) and len(rates) > 1 and next(iter(proposals.values())).is_grid
    for _ in range(extend if is_list else 0):
        more = tuned_variants.extend_grid([*entries.values()], tuned_variants.spacing(rates))  # type: ignore[arg-type]
        if not more:
            break
        ends = [f"{each.variant} ({each.lr_curve.best:g})" for each in entries.values() if each.lr_curve.edge]
        print(
            f"the best rate lies at the edge of the grid for {', '.join(ends)}: "
            f"adding {', '.join(f'{rate:g}' for rate in more)} for all",
            flush=True,
        )
        added = SearchSpace({**space.values, RATE: more}).grid()
        rounds.sweep(dict.fromkeys(rounds.arms, added), steps)
        entries = rounds.read(steps)
    return entries


def _print_tuning(
    experiment: Experiment, entries: Sequence[TunedVariant], lower: bool, over: str = "", how: str = ""
) -> None:
    budgets = sorted({steps for entry in entries for trial in entry.trials for steps in trial.scores})
    keys = list(entries[0].trials[0].settings)
    rows = []
    for entry in entries:
        search, curve = _search(entry), entry.lr_curve
        best = [ranked(entry.trials, steps, lower)[:1] for steps in budgets]
        scores = [
            number(trials[0].scores[steps].mean) if trials else "" for steps, trials in zip(budgets, best, strict=True)
        ]
        fitted = (
            ["none" if curve.fitted is None else f"{curve.fitted:.3g}"] if len(budgets) == 1 and keys == [RATE] else []
        )
        chosen = [as_typed(search.settings[key]) for key in keys]
        sensitivity = [number(curve.sensitivity)] if RATE in keys else []
        rows.append([_label(entry), *scores, str(search.tried), *fitted, *chosen, *sensitivity, search.holds])
    columns = ["variant", *(f"best at {steps}" for steps in budgets), "tried"]
    columns += [*(["parabola"] if len(budgets) == 1 and keys == [RATE] else []), *keys]
    columns += [*(["sensitivity"] if RATE in keys else []), "at two budgets"]
    seeds = ", ".join(map(str, entries[0].lr_curve.tuning_seeds))
    print(f"{experiment.metric} of the best settings, mean over seeds {seeds}")
    draw(table(columns, rows), Console(), piped=WIDTH_OF_A_COLUMN)
    settings, runs = (sum(sizes) for sizes in zip(*((_search(e).tried, _search(e).runs) for e in entries), strict=True))
    print(f"{settings} settings of {len(entries)} variants were tried, in {runs} runs")
    for line in _orders(entries, budgets, lower):
        print(harmless(f"- {line}"))
    for entry in entries:
        lost = [f"{t} at {n} steps" for t in entry.trials for n, score in t.scores.items() if score.diverged]
        if lost:
            print(harmless(f"- {_label(entry)}: diverged: {', '.join(lost)}"))
        for remark in entry.lr_curve.remarks:
            print(harmless(f"- {_label(entry)}: {remark}"))
    rates = sorted({point.rate for entry in entries for point in entry.lr_curve.points})
    more = tuned_variants.extend_grid(entries, tuned_variants.spacing(rates)) if keys == [RATE] and rates[1:] else []
    if more:
        print(f"- to widen the grid, run it at {RATE}={','.join(f'{rate:g}' for rate in more)}, too")
    if drawing := lr_curves([(_label(entry), entry.lr_curve) for entry in entries], experiment.metric):
        path = experiment.folder.learning_rates
        write_atomically(path, drawing.svg.encode(), key="experiment")
        print(f"wrote {path}")
    path = tuned_variants.write(experiment, over, how, entries)
    print(f"wrote {path}; final runs take it with tuned={experiment.folder} and other seeds")


def _orders(entries: Sequence[TunedVariant], budgets: Sequence[int], lower: bool) -> list[str]:
    """Whether the variants, each at its best, stand in the same order at the last two budgets."""
    if len(entries) < 2 or len(budgets) < 2:
        return []
    orders = []
    for steps in budgets[-2:]:
        best = {_label(entry): ranked(entry.trials, steps, lower)[0].scores[steps].mean for entry in entries}
        orders.append(sorted(best, key=lambda label: best[label] if lower else -best[label]))
    if orders[0] == orders[1]:
        return [
            f"the variants stand in the same order at {budgets[-2]} and {budgets[-1]} steps: {', '.join(orders[1])}"
        ]
    return [
        f"the order of the variants depends on the budget: {', '.join(order)} at {steps} steps"
        for steps, order in zip(budgets[-2:], orders, strict=True)
    ]


def _search(entry: TunedVariant) -> Search:
    assert entry.lr_curve.search is not None
    return entry.lr_curve.search


def _label(entry: TunedVariant) -> str:
    return " ".join([entry.variant, *(f"{key}={value}" for key, value in entry.apart.items())])
