"""A tuning experiment: every variant at the same learning rates, with seeds that only choose.

Its result, tuned.yaml, is what `tuned=runs/<experiment>` takes; its curves stand in the report of the final runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from attnlab.analysis.codes import is_code, of_latest_code
from attnlab.analysis.groups import RATE, Group, apart_by_rate, differing, groups_by_rate, groups_of
from attnlab.analysis.lr_curve import LRCurve, fit_lr_curve
from attnlab.analysis.reading import Experiment
from attnlab.errors import UsageError, shown
from attnlab.store.files import write_atomically

OPTIMIZER = "optimizer._target_"
MOST_NAMED = 4


class TunedVariant(NamedTuple):
    """One variant of a tuning experiment: its curve, and what sets it apart from others of the same name."""

    variant: str
    apart: dict[str, object]
    group: Group  # at one of its rates
    lr_curve: LRCurve


def read_tuning(experiment: Experiment, lower_is_better: bool, alpha: float) -> list[TunedVariant]:
    """The curve of every variant. Refuses a grid with holes: a mean over fewer seeds is no point of a curve."""
    curves: list[tuple[Group, LRCurve]] = []
    holes: list[str] = []
    groups = groups_of(experiment.runs)
    latest = of_latest_code(groups, besides=RATE)
    older = {group.variant for group in groups if group.folder not in {each.folder for each in latest}}
    for members in apart_by_rate(latest):
        by_rate = groups_by_rate(members)
        seeds = sorted({seed for group in members for seed in group.results})
        for rate, group in sorted(by_rate.items()):
            lost = {run.seed: f"{run.status} {run.reason}".strip() for run in group.runs if run.seed is not None}
            holes += [
                f"{group.variant} at {rate:g}, seed {seed} ({lost.get(seed, 'never begun')})"
                for seed in sorted({*seeds, *lost} - set(group.results))
            ]
        if len(by_rate) > 1 and seeds:
            runs = {rate: group.results for rate, group in by_rate.items()}
            curve = fit_lr_curve(runs, lower_is_better, alpha, all_choose=True)
            remarks = [*curve.remarks, *_doubts(curve)]
            if members[0].variant in older:
                remarks.append("what other code made before is left out")
            curves.append((members[0], curve._replace(remarks=remarks)))
    if holes:
        more = f" and {len(holes) - MOST_NAMED} more" if len(holes) > MOST_NAMED else ""
        raise UsageError(
            f"experiment ({experiment.folder}) lacks {', '.join(holes[:MOST_NAMED])}{more}: the command that made it "
            "runs what is missing"
        )
    if not curves:
        raise UsageError(
            f"experiment ({experiment.folder}) holds no variant at several learning rates; to make them: attnlab "
            f"tune experiment={experiment.folder} rates=3e-4,1e-3,3e-3,1e-2 seeds=100-102 attention=multi_head,linear"
        )
    firsts = [group for group, _ in curves]
    return [TunedVariant(group.variant, _apart(group, firsts), group, curve) for group, curve in curves]


def _doubts(curve: LRCurve) -> list[str]:
    """Whether the parabola points elsewhere than the rate that is taken."""
    if curve.fitted is None or curve.proposal != curve.best or f"{curve.fitted:.3g}" == f"{curve.best:.3g}":
        return []
    return [f"the lowest point of the parabola ({curve.fitted:.3g}) is not near the best rate, which is taken"]


def _apart(group: Group, all_groups: Sequence[Group]) -> dict[str, object]:
    alike = [one.settings for one in all_groups if one.variant == group.variant]
    keys = differing([{key: value for key, value in settings.items() if key != RATE} for settings in alike])
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


def write(experiment: Experiment, variants: Sequence[TunedVariant]) -> Path:
    """Write tuned.yaml beside the runs."""
    entries = []
    for variant, apart, group, curve in variants:
        entry = {"variant": variant, "settings": apart, "optimizer": group.settings.get(OPTIMIZER)}
        fitted = None if curve.fitted is None else float(f"{curve.fitted:.6g}")
        entry |= {"lr": curve.proposal, "best": curve.best, "fitted": fitted}
        entry |= {"edge": curve.edge or None, "sensitivity": curve.sensitivity, "seeds": curve.tuning_seeds}
        points = [[p.rate, p.mean if not p.diverged else None] for p in curve.points]
        entries.append({**entry, "curve": points, "remarks": curve.remarks})
    text = (
        f"# A learning rate per variant, chosen by {experiment.metric} on tuning seeds: final runs take it with\n"
        f"# tuned={experiment.folder}, and need other seeds. lr is the lowest point of a parabola in log rate where\n"
        "# that refines the best rate of the grid, else that rate; curve: [rate, mean], null where a seed diverged.\n"
    )
    content = {"metric": experiment.metric, "variants": entries}
    path = experiment.folder.tuned
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    write_atomically(path, text.encode(), key="experiment")
    return path


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
    return LRCurve([], [], _seeds(group), rate, rate, None, None, [remark], group.tuned or "")


def _seeds(group: Group) -> list[int]:
    return sorted(run.seed for run in group.runs if run.seed is not None)


def _changed(there: Group, here: Group) -> list[str]:
    keys = sorted({*there.settings, *here.settings} - {RATE})
    return [
        f"{key} ({shown(there.settings.get(key))} there, {shown(here.settings.get(key))} here)"
        for key in keys
        if there.settings.get(key) != here.settings.get(key)
    ]
