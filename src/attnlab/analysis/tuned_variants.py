"""A tuning experiment: every variant at several settings, with seeds that only choose.

Its result, tuned.yaml, is what `tuned=runs/<experiment>` takes; its curves stand in the report of the final runs.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from attnlab.analysis.codes import is_code, of_latest_code
from attnlab.analysis.groups import RATE, Group, apart_by, differing, groups_of
from attnlab.analysis.lr_curve import LRCurve, LRPoint, Search, fit_lr_curve, point_of
from attnlab.analysis.reading import Experiment
from attnlab.config.keys import one_spelling
from attnlab.config.tuned_settings import MOST_VALUES
from attnlab.config.tuned_settings import read as read_tuned
from attnlab.errors import UsageError, shown
from attnlab.store.files import parse_yaml, read_file, write_atomically

OPTIMIZER, STEPS = "optimizer._target_", "trainer.max_steps"
MOST_NAMED = 4


class Trial(NamedTuple):
    """One setting of what is tuned, and what the tuning seeds came to with it after so many steps."""

    settings: dict[str, Any]
    scores: dict[int, LRPoint]
    groups: dict[int, Group]

    def __str__(self) -> str:
        return spelled(self.settings)


class TunedVariant(NamedTuple):
    """One variant of a tuning experiment: its curve, what was tried, and what sets it apart from others of the name."""

    variant: str
    apart: dict[str, object]
    group: Group  # at the setting that was chosen
    lr_curve: LRCurve
    trials: list[Trial]


def ranked(trials: Sequence[Trial], steps: int, lower_is_better: bool) -> list[Trial]:
    """The trials of one budget, the best first; those of which a seed diverged stand last."""
    sign = 1 if lower_is_better else -1
    some = [trial for trial in trials if steps in trial.scores]
    return sorted(some, key=lambda t: (not math.isfinite(t.scores[steps].mean), sign * t.scores[steps].mean))


def spelled(settings: Mapping[str, Any]) -> str:
    """Settings as they are typed; what means the same is spelled alike."""
    return " ".join(f"{key}={as_typed(value)}" for key, value in settings.items())


def as_typed(value: Any) -> str:
    """A value as it is typed."""
    value = one_spelling(value)
    return f"{value:g}" if isinstance(value, float) else shown(value)


def read_tuning(
    experiment: Experiment, lower_is_better: bool, alpha: float, over: Sequence[str] = (), *, most: int | None = None
) -> list[TunedVariant]:
    """What was tried for every variant. `over` names what was tuned: what tuned.yaml says if it is left out, or the
    learning rate. With `most`, budgets of more steps are left out. Refuses a grid with holes: a mean over fewer seeds
    is no point of a curve."""
    over = over or keys_of(experiment) or (RATE,)
    variants: list[tuple[Group, LRCurve, list[Trial]]] = []
    holes: list[str] = []
    groups = [group for group in groups_of(experiment.runs) if _is_trial(group)]
    if most is not None:
        groups = [group for group in groups if int(group.settings[STEPS]) <= most]
    latest = of_latest_code(groups, {*over, STEPS})
    older = {group.variant for group in groups if group.folder not in {each.folder for each in latest}}
    for members in apart_by(latest, {*over, STEPS}):
        seeds = sorted({seed for group in members for seed in group.results})
        trials: dict[str, Trial] = {}
        for group in sorted(members, key=lambda group: [_order(group.settings.get(key)) for key in over]):
            settings = {key: group.settings.get(key) for key in over}
            trial = Trial(settings, {}, {})
            trial = trials.setdefault(str(trial), trial)
            lost = {run.seed: f"{run.status} {run.reason}".strip() for run in group.runs if run.seed is not None}
            missing = sorted({*seeds, *lost} - set(group.results))
            holes += [
                f"{group.variant} at {_short(trial)}, seed {seed} ({lost.get(seed, 'never begun')})" for seed in missing
            ]
            if not missing and seeds:
                steps = int(group.settings[STEPS])
                trial.scores[steps] = point_of(float(group.settings[RATE]), [*group.results.values()], alpha)
                trial.groups[steps] = group
        if len(trials) > 1 and seeds and not holes:
            curve, group = _curve([*trials.values()], over, lower_is_better, alpha)
            if members[0].variant in older:
                curve.remarks.append("what other code made before is left out")
            variants.append((group, curve, [*trials.values()]))
    if holes:
        more = f" and {len(holes) - MOST_NAMED} more" if len(holes) > MOST_NAMED else ""
        raise UsageError(
            f"experiment ({experiment.folder}) lacks {', '.join(holes[:MOST_NAMED])}{more}: the command that made it "
            "runs what is missing"
        )
    if not variants:
        raise UsageError(
            f"experiment ({experiment.folder}) holds no variant at several settings of {', '.join(over)}; to make "
            f"them: attnlab tune experiment={experiment.folder} over={RATE}=3e-4,1e-3,3e-3,1e-2 seeds=100-102 "
            "attention=multi_head,linear"
        )
    firsts = [group for group, _, _ in variants]
    return [
        TunedVariant(group.variant, _apart(group, firsts, over), group, curve, trials)
        for group, curve, trials in variants
    ]


def _is_trial(group: Group) -> bool:
    """Whether a configuration has what places it on a curve; that of somebody else's folder may not."""
    return all(isinstance(group.settings.get(key), int | float) for key in (RATE, STEPS))


def _short(trial: Trial) -> str:
    """A trial in a message: of the rate alone without its key."""
    return as_typed(trial.settings[RATE]) if list(trial.settings) == [RATE] else str(trial)


def _order(value: Any) -> tuple[int, float, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def _curve(trials: list[Trial], over: Sequence[str], lower: bool, alpha: float) -> tuple[LRCurve, Group]:
    """The curve over the learning rate, each at its best other settings, and what won; with the runs that won.

    All settings ran at the first budget, so the curve is of it; the winner is the best at the last. The parabola is
    believed where nothing but the rate was tuned and there was one budget.
    """
    budgets = sorted({steps for trial in trials for steps in trial.scores})
    by_rate: dict[float, Trial] = {}
    for trial in ranked(trials, budgets[0], lower):
        by_rate.setdefault(trial.scores[budgets[0]].rate, trial)
    runs = {rate: trial.groups[budgets[0]].results for rate, trial in by_rate.items()}
    curve = fit_lr_curve(runs, lower, alpha, all_choose=True)
    winner = ranked(trials, budgets[-1], lower)[0]
    before = str(ranked(trials, budgets[-2], lower)[0]) if len(budgets) > 1 else ""
    rate = winner.scores[budgets[-1]].rate
    if list(over) != [RATE] or len(budgets) > 1:
        curve = curve._replace(fitted=None, best=rate, chosen=rate)
    if RATE not in over:
        curve = curve._replace(points=[], sensitivity=None, remarks=[])
    else:
        curve = curve._replace(remarks=[*curve.remarks, *_doubts(curve)])
    settings = winner.settings | ({RATE: curve.proposal} if RATE in over else {})
    n_runs = sum(len(group.results) for trial in trials for group in trial.groups.values())
    search = Search(settings, len(trials), n_runs, budgets, before, str(winner))
    return curve._replace(search=search), winner.groups[budgets[-1]]


def _doubts(curve: LRCurve) -> list[str]:
    """Whether the parabola points elsewhere than the rate that is taken."""
    if curve.fitted is None or curve.proposal != curve.best or f"{curve.fitted:.3g}" == f"{curve.best:.3g}":
        return []
    return [f"the lowest point of the parabola ({curve.fitted:.3g}) is not near the best rate, which is taken"]


def _apart(group: Group, all_groups: Sequence[Group], over: Sequence[str]) -> dict[str, object]:
    alike = [one.settings for one in all_groups if one.variant == group.variant]
    keys = differing(
        [{key: value for key, value in settings.items() if key not in {*over, STEPS}} for settings in alike]
    )
    return {key: group.settings.get(key) for key in keys if not is_code(key)}


def extend_grid(variants: Sequence[TunedVariant], factor: float) -> list[float]:
    """The rates to add, for all variants alike, because the best rate of one lies at an edge of the grid."""
    rates = sorted({point.rate for each in variants for point in each.lr_curve.points})
    low = [rates[0] / factor] if any(each.lr_curve.edge == "low" for each in variants) else []
    high = [rates[-1] * factor] if any(each.lr_curve.edge == "high" for each in variants) else []
    return [float(f"{rate:.3g}") for rate in (*low, *high)]


def spacing(rates: Sequence[float]) -> float:
    """By what factor neighbouring rates of a grid differ, in the geometric mean."""
    ordered = sorted(rates)
    return float((ordered[-1] / ordered[0]) ** (1 / (len(ordered) - 1)))


def write(experiment: Experiment, over: str, how: str, variants: Sequence[TunedVariant]) -> Path:
    """Write tuned.yaml beside the runs."""
    entries = []
    for variant, apart, group, curve, _ in variants:
        search = curve.search
        assert search is not None
        entry = {"variant": variant, "settings": apart, "optimizer": group.settings.get(OPTIMIZER)}
        fitted = None if curve.fitted is None else float(f"{curve.fitted:.6g}")
        entry |= {"chosen": dict(search.settings), "tried": search.tried, "runs": search.runs, "winner": search.holds}
        if curve.points:
            entry |= {"best": curve.best, "fitted": fitted, "edge": curve.edge or None}
            entry |= {"sensitivity": curve.sensitivity}
        points = [[p.rate, p.mean if not p.diverged else None] for p in curve.points]
        entries.append({**entry, "seeds": curve.tuning_seeds, "curve": points, "remarks": curve.remarks})
    text = (
        f"# Settings per variant, chosen by {experiment.metric} on tuning seeds: final runs take them with\n"
        f"# tuned={experiment.folder}, and need other seeds. Where the rate alone was tuned, at one budget, it is the\n"
        "# lowest point of a parabola in log rate if that refines the best rate of the grid, else that rate;\n"
        "# curve: [rate, mean at the first budget], null where a seed diverged.\n"
    )
    budgets = sorted({steps for each in variants for trial in each.trials for steps in trial.scores})
    path = experiment.folder.tuned
    asked = {"over": over, "how": how} if over else {}
    content = {"metric": experiment.metric, **_asked_before(path), **asked, "budgets": budgets, "variants": entries}
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    write_atomically(path, text.encode(), key="experiment")
    return path


def _asked_before(path: Path) -> dict[str, Any]:
    """What was tuned and how, as the file says that is written anew."""
    try:
        content = parse_yaml(read_file(path).decode(), MOST_VALUES)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {key: content[key] for key in ("over", "how") if key in content} if isinstance(content, dict) else {}


def keys_of(experiment: Experiment) -> tuple[str, ...]:
    """What was tuned, as tuned.yaml says; none where there is none yet."""
    if not experiment.folder.tuned.is_file():
        return ()
    _, entries, _ = read_tuned(str(experiment.folder.path))
    return tuple(dict.fromkeys(key for entry in entries for key in entry["chosen"]))


class Tuning(NamedTuple):
    """A tuning experiment as it was read."""

    folder: Path
    variants: list[TunedVariant]


def curve_of(group: Group, tuning: Tuning) -> LRCurve:
    """The curve that chose the rate of these runs, of the variant of the tuning experiment that is most like them."""
    rate, seeds = float(group.settings[RATE]), _seeds(group)
    alike = [each for each in tuning.variants if each.variant == group.variant]
    if not alike:
        return without_curve(group, f"{tuning.folder} holds no curve of {group.variant}")
    nearest = min(alike, key=lambda each: len(_changed(each.group, group)))
    curve, remarks = nearest.lr_curve, list(nearest.lr_curve.remarks)
    if rate != curve.proposal:
        remarks.append(f"the final seeds ran at {rate:g}, but {tuning.folder} says {curve.proposal:g}")
    if changed := _changed(nearest.group, group):
        remarks.append(f"tuned at other settings: {'; '.join(changed[:MOST_NAMED])}")
    if both := sorted({*seeds} & {*curve.tuning_seeds}):
        remarks.append(f"seeds {', '.join(map(str, both))} had chosen the rate and are left out")
    final = [seed for seed in seeds if seed not in curve.tuning_seeds]
    return curve._replace(chosen=rate, final_seeds=final, remarks=remarks, source=group.tuned or "")


def without_curve(group: Group, remark: str) -> LRCurve:
    """What is known of a rate whose tuning runs cannot be shown."""
    rate = float(group.settings[RATE])
    return LRCurve([], [], _seeds(group), rate, rate, None, None, [remark], group.tuned or "", None)


def _seeds(group: Group) -> list[int]:
    return sorted(run.seed for run in group.runs if run.seed is not None)


def _changed(there: Group, here: Group) -> list[str]:
    keys = sorted({*there.settings, *here.settings} - {RATE})
    return [
        f"{key} ({shown(there.settings.get(key))} there, {shown(here.settings.get(key))} here)"
        for key in keys
        if there.settings.get(key) != here.settings.get(key)
    ]
