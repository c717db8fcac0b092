"""From the rows of a run to the one number that a metric comes to."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from attnlab.config.metric_kinds import COUNTS, Metric
from attnlab.store.metrics_csv import Row


class Curve(NamedTuple):
    """A metric over the steps of a run, each step once, in order."""

    steps: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]


def curve_of(metric: Metric, rows: Sequence[Row]) -> Curve | None:
    """The metric over the steps; None if it was not logged. What was written twice for a step counts as written last.

    Of several members a step has a value if all of them have one there.
    """
    members = metric.members(row.metric for row in rows)
    if not members:
        return None
    tags = dict.fromkeys(members)
    if metric.name not in tags:
        tags |= dict.fromkeys(_count(metric, name) for name in members if metric.group in COUNTS)
    by_tag: dict[str, dict[int, float]] = {tag: {} for tag in tags}
    for row in rows:
        if row.metric in by_tag:
            by_tag[row.metric][row.step] = row.value
    steps = sorted(set.intersection(*(set(each) for each in by_tag.values())))
    values = {tag: np.array([each[step] for step in steps], dtype=np.float64) for tag, each in by_tag.items()}
    together = np.stack([values[name] for name in members])
    if metric.name in tags:
        (together,) = together
    elif metric.member == "max":
        together = together.max(axis=0)
    elif metric.member == "mean" or metric.group not in COUNTS:
        together = together.mean(axis=0)
    else:
        together = np.average(together, axis=0, weights=np.stack([values[_count(metric, name)] for name in members]))
    return Curve(np.array(steps, dtype=np.int64), together) if steps else None


def _count(metric: Metric, name: str) -> str:
    return f"{COUNTS[metric.group]}/{name.rpartition('/')[2]}"


def outcome(metric: Metric, curve: Curve) -> float:
    """What a run comes to: its last value, the mean over its steps (by trapezoids), or the step at which the threshold
    was first reached, inf if it never was."""
    if metric.course == "last" or (metric.course == "area" and len(curve.steps) == 1):
        return float(curve.values[-1])
    if metric.course == "area":
        return float(np.trapezoid(curve.values, curve.steps) / (curve.steps[-1] - curve.steps[0]))
    lower = metric.kind.better == "lower"
    reached = curve.steps[(curve.values <= metric.threshold) if lower else (curve.values >= metric.threshold)]
    return float(reached[0]) if len(reached) else math.inf
