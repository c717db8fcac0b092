"""Learning rates: the loss at each, the best one by a parabola, how much a wrong one costs, and which seeds may tell.

A rate that is chosen and judged on the same seeds looks better than it is. Seeds that ran at several rates choose it
(the tuning seeds); the others judge it (the final seeds). Where every seed ran at every rate, the first third of them
choose and the rest judge.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from attnlab.analysis.groups import RATE
from attnlab.analysis.reading import Run
from attnlab.analysis.statistics import Interval, t_interval
from attnlab.store.status import Status

FEWEST_RATES = 4  # below, the grid says little about where the best rate is
ENOUGH_FOR_A_PARABOLA = 3

RunsByRate = Mapping[float, Mapping[int, Run]]  # finished and diverged runs, by rate and seed


class LRPoint(NamedTuple):
    """What the tuning seeds came to at one rate; `mean` is infinite where one of them diverged."""

    rate: float
    mean: float
    interval: Interval | None
    values: list[float]
    diverged: int


class Search(NamedTuple):
    """What `attnlab tune` tried for one variant, and what came of it."""

    settings: Mapping[str, Any]  # what was tuned, and what was chosen
    tried: int  # settings
    runs: int
    budgets: Sequence[int]  # steps of each round
    winner_before: str  # the setting that was best at the budget before the last; empty if there was one round
    winner: str  # and at the last

    @property
    def holds(self) -> str:
        """Whether the winner is the same at two budgets, in words."""
        if not self.winner_before:
            return "one budget only"
        same = self.winner == self.winner_before
        return "same winner" if same else f"another: {self.winner_before} at {self.budgets[-2]} steps"


class LRCurve(NamedTuple):
    """The learning-rate curve of one variant. All numbers are of the tuning seeds."""

    points: list[LRPoint]
    tuning_seeds: list[int]
    final_seeds: list[int]
    chosen: float  # the rate whose runs are compared
    best: float  # the rate of the grid with the best mean
    fitted: float | None  # where the parabola through the best rates has its lowest point
    sensitivity: float | None  # mean over the grid of min(loss, loss before training) - best
    remarks: list[str]
    source: str = ""  # the experiment that the tuning seeds ran in, if it is another one
    search: Search | None = None

    @property
    def tuned_keys(self) -> set[str]:
        """The settings that tuning chose: no differences to compare."""
        return {RATE, *(self.search.settings if self.search is not None else ())}

    @property
    def edge(self) -> str:
        """The end of the grid that the best rate lies at: "low", "high" or none.

        Not the high end where a higher rate diverged, for then nothing better lies beyond.
        """
        rates = [point.rate for point in self.points]
        if not rates:
            return ""
        return "low" if self.best == rates[0] else "high" if self.best == rates[-1] else ""

    @property
    def proposal(self) -> float:
        """The rate to train at: the lowest point of the parabola where it refines the best rate of the grid, else that.

        It refines it if no other rate of the grid lies nearer. A parabola that points elsewhere, because the curve is
        lopsided or noisy, is not believed against what was measured. Three digits.
        """
        rates = [point.rate for point in self.points]
        fitted = self.fitted
        if fitted is None or min(rates, key=lambda rate: abs(math.log(rate / fitted))) != self.best:
            return self.best
        return float(f"{fitted:.3g}")


def fit_lr_curve(runs: RunsByRate, lower_is_better: bool, alpha: float, *, all_choose: bool = False) -> LRCurve:
    """The curve of a variant that ran at several rates, and the rate and seeds that count.

    With `all_choose` there are no final seeds among these runs: they only tune.
    """
    sign = 1.0 if lower_is_better else -1.0
    at = {seed: [rate for rate in runs if seed in runs[rate]] for rate in runs for seed in runs[rate]}
    tuning = sorted(seed for seed, rates in at.items() if len(rates) > 1 or all_choose)
    final = sorted(seed for seed in at if seed not in tuning)
    remarks = []
    if all_choose:
        pass
    elif not tuning:
        remarks.append("no seed ran at two rates, so none of them could choose one")
    elif not final:
        n = max(1, len(tuning) // 3)
        tuning, final = tuning[:n], tuning[n:]
        remarks.append(f"every seed ran at every rate: the first {n} chose, the other {len(final)} judge")
    grid = sorted(rate for rate in runs if any(seed in runs[rate] for seed in tuning))
    points = [point_of(rate, [runs[rate][seed] for seed in tuning if seed in runs[rate]], alpha) for rate in grid]
    usable = [point for point in points if math.isfinite(point.mean)]
    best = min(usable, key=lambda point: sign * point.mean).rate if usable else None
    judged = {rate: [seed for seed in final if seed in runs[rate]] for rate in runs}
    chosen = max(judged, key=lambda rate: (len(judged[rate]), -rate))
    if best is not None and (judged[best] or all_choose):
        chosen = best
    fitted = _vertex(points, best, sign) if best is not None else None
    if best is not None:
        remarks += _doubts(grid, best, chosen, fitted)
    return LRCurve(
        points,
        tuning,
        judged[chosen],
        chosen,
        best if best is not None else chosen,
        fitted,
        _sensitivity(points, runs, tuning, sign),
        remarks,
    )


def point_of(rate: float, runs: Sequence[Run], alpha: float) -> LRPoint:
    """What runs at one rate came to."""
    values = [run.final for run in runs if run.status == Status.FINISHED]
    diverged = len(runs) - len(values)
    mean = math.inf if diverged or not values else float(np.mean(values))
    interval = None
    if len(values) > 1:
        low, high = t_interval(np.array(values), alpha)
        interval = Interval(float(low), float(high))
    return LRPoint(rate, mean, interval, values, diverged)


def _vertex(points: Sequence[LRPoint], best: float, sign: float) -> float | None:
    """The rate at the lowest point of the parabola in log rate through the best rate and up to two on each side of it.

    None if there are fewer than three points, or the parabola bends the wrong way or leaves the grid.
    """
    usable = [point for point in points if math.isfinite(point.mean)]
    at = [point.rate for point in usable].index(best)
    near = usable[max(0, at - 2) : at + 3]
    if len(near) < ENOUGH_FOR_A_PARABOLA:
        return None
    x, y = np.log10([p.rate for p in near]), np.array([sign * p.mean for p in near])
    bend, slope, _ = np.polyfit(x - x.mean(), y, 2)
    if bend <= 0:
        return None
    vertex = float(x.mean() - slope / (2 * bend))
    return 10**vertex if x[0] <= vertex <= x[-1] else None


def _sensitivity(points: Sequence[LRPoint], runs: RunsByRate, tuning: Sequence[int], sign: float) -> float | None:
    """E over the grid of min(loss, l_0) - best, l_0 the loss before the first update: what not knowing the rate costs
    (arXiv 2309.14322)."""
    first = [runs[p.rate][s] for p in points for s in tuning if s in runs[p.rate]]
    starts = [float(run.curve.values[0]) for run in first if run.curve is not None and run.curve.steps[0] == 0]
    finite = [sign * point.mean for point in points if math.isfinite(point.mean)]
    if not starts or not finite or len(points) < 2:
        return None
    ceiling = sign * float(np.mean(starts))
    return float(np.mean([min(sign * p.mean if math.isfinite(p.mean) else ceiling, ceiling) for p in points])) - min(
        finite
    )


def _doubts(grid: Sequence[float], best: float, chosen: float, fitted: float | None) -> list[str]:
    doubts = []
    if len(grid) < FEWEST_RATES:
        doubts.append(f"a grid of {len(grid)} rates says little; use at least {FEWEST_RATES}")
    if best in (grid[0], grid[-1]):
        doubts.append(f"the best rate ({best:g}) is at the edge of the grid: a better one may lie beyond it")
    if chosen != best and (fitted is None or not math.isclose(chosen, fitted, rel_tol=0.05)):
        doubts.append(f"the final seeds ran at {chosen:g}, not at the best rate of the tuning seeds ({best:g})")
    return doubts
