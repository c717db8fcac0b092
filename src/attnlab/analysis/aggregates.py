"""Several tasks at once: does a variant do better on the whole, whatever its fate on one of them?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from attnlab.analysis.arms import Arm, BlockDesign
from attnlab.analysis.statistics import (
    Interval,
    interquartile_mean,
    median_steps,
    probability_of_improvement,
    stratified_bootstrap,
    wilson,
)
from attnlab.store.status import Status

OF_A_TASK = "data."


class Aggregate(NamedTuple):
    """A variant over all tasks. A score is the metric over the baseline's mean on the same task."""

    label: str
    tasks: int
    runs: int
    iqm: float
    iqm_interval: Interval
    improvement: float | None  # the chance that one of its runs beats one of the baseline's
    improvement_interval: Interval | None


def over_tasks(design: BlockDesign, lower_is_better: bool, alpha: float) -> list[Aggregate]:
    """Every variant that finished runs on all tasks, the baseline first; empty if there is but one task."""
    baselines = {block: c for block, c in design.baselines.items() if c.finished}
    if len(baselines) < 2 or not any(key.startswith(OF_A_TASK) for block in baselines for key, _ in block):
        return []
    by_label: dict[str, dict[tuple[tuple[str, object], ...], Arm]] = {}
    for arm in design.arms:
        by_label.setdefault(arm.label, {})[arm.block] = arm
    reference = {block: np.array([r.final for r in c.finished.values()]) for block, c in baselines.items()}
    theirs = [scores / scores.mean() for scores in reference.values()]
    aggregates = []
    for label, on in by_label.items():
        if not all(block in on and on[block].finished for block in reference):
            continue
        ours = [
            np.array([run.final for run in on[block].finished.values()]) / scores.mean()
            for block, scores in reference.items()
        ]
        itself = all(on[block] is baselines[block] for block in reference)
        aggregates.append(_aggregate(label, ours, None if itself else theirs, -1 if lower_is_better else 1, alpha))
    return aggregates


def _aggregate(
    label: str,
    ours: Sequence[Float[np.ndarray, " _"]],
    theirs: Sequence[Float[np.ndarray, " _"]] | None,
    sign: int,
    alpha: float,
) -> Aggregate:
    iqm = stratified_bootstrap(interquartile_mean, ours, alpha=alpha)
    improvement, within = None, None
    if theirs is not None:
        pair = [sign * a for a in ours], [sign * b for b in theirs]
        improvement = probability_of_improvement(*pair)
        within = stratified_bootstrap(probability_of_improvement, *pair, alpha=alpha)
    return Aggregate(label, len(ours), sum(map(len, ours)), interquartile_mean(ours), iqm, improvement, within)


class Solved(NamedTuple):
    """How many seeds solved a task, and how soon."""

    arm: Arm
    solved: int
    n: int
    share: Interval
    median_steps: float | None  # by which half of the seeds had solved it; None if fewer ever did


def solved(arms: Sequence[Arm], at_least: float, alpha: float) -> list[Solved]:
    """Seeds that end at `at_least` or above. A run that diverged did not solve the task, at whatever step."""
    rows = []
    for arm in arms:
        curves = [run.curve for run in arm.finished.values() if run.curve is not None]
        diverged = [run for run in arm.runs if run.status == Status.DIVERGED]
        n = len(curves) + len(diverged)
        if not n:
            continue
        ends = [curve for curve in curves if curve.values[-1] >= at_least]
        first = [float(curve.steps[curve.values >= at_least][0]) for curve in ends]
        longest = max((float(curve.steps[-1]) for curve in curves), default=0.0)
        never = [float(c.steps[-1]) for c in curves if c.values[-1] < at_least] + [longest for _ in diverged]
        rows.append(Solved(arm, len(ends), n, wilson(len(ends), n, alpha), median_steps(first, never)))
    return rows
