"""Learning-rate curves of losses that are known functions of the rate."""

import math

import numpy as np
import pytest
from tests.analysis.in_memory import make_run

from attnlab.analysis.lr_curve import LRCurve, RunsByRate, fit_lr_curve
from attnlab.store.status import Status

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
START = 5.0  # before the first step
AT = -2.9  # log10 of the best rate: between 1e-3 and 3e-3, nearer to the first


def loss(rate: float) -> float:
    return 2 + 0.5 * (math.log10(rate) - AT) ** 2


def runs_at(rates: tuple[float, ...] = RATES, seeds: tuple[int, ...] = (100, 101), sign: float = 1) -> RunsByRate:
    """A parabola; seeds differ by a constant."""
    return {r: {s: make_run(s, sign * START, sign * (loss(r) + s / 1000)) for s in seeds} for r in rates}


@pytest.mark.parametrize("sign", [1, -1])
def test_parabola(sign: float) -> None:
    """Its lowest point is found, whichever way is better, and refines the best rate of the grid."""
    curve = fit_lr_curve(runs_at(sign=sign), sign > 0, 0.05, all_choose=True)
    assert (curve.best, curve.chosen, curve.edge) == (1e-3, 1e-3, "")
    assert curve.fitted == pytest.approx(10**AT) and curve.proposal == 0.00126
    assert [point.mean for point in curve.points] == pytest.approx([sign * (loss(r) + 0.1005) for r in RATES])
    assert curve.sensitivity == pytest.approx(np.mean([loss(r) for r in RATES]) - loss(1e-3))


def test_seeds_apart() -> None:
    """Seeds at several rates choose, and those of the chosen rate alone judge."""
    runs = {rate: dict(by_seed) for rate, by_seed in runs_at().items()}
    runs[1e-3] |= {seed: make_run(seed, START, 9.0) for seed in (0, 1, 2)}  # bad, but nobody asks them
    runs[1e-2][7] = make_run(7, START, 0.0)
    curve = fit_lr_curve(runs, True, 0.05)
    assert (curve.tuning_seeds, curve.final_seeds, curve.chosen) == ([100, 101], [0, 1, 2], 1e-3)
    assert [len(point.values) for point in curve.points] == [2] * 5 and curve.remarks == []


def test_all_at_every_rate() -> None:
    """Where every seed ran everywhere, the first third choose and the rest judge, and this is said."""
    curve = fit_lr_curve(runs_at(seeds=tuple(range(6))), True, 0.05)
    assert (curve.tuning_seeds, curve.final_seeds) == ([0, 1], [2, 3, 4, 5])
    assert curve.remarks == ["every seed ran at every rate: the first 2 chose, the other 4 judge"]


def test_final_seeds_elsewhere() -> None:
    """The runs that are there are judged, and that they ran at another rate than the best is said."""
    runs = {rate: dict(by_seed) for rate, by_seed in runs_at().items()}
    runs[1e-2] |= {seed: make_run(seed, START, 3.0) for seed in (0, 1)}
    curve = fit_lr_curve(runs, True, 0.05)
    assert (curve.chosen, curve.best, curve.final_seeds) == (1e-2, 1e-3, [0, 1])
    assert curve.remarks == ["the final seeds ran at 0.01, not at the best rate of the tuning seeds (0.001)"]


def diverged() -> LRCurve:
    runs = {rate: dict(by_seed) for rate, by_seed in runs_at().items()}
    for rate in (3e-3, 1e-2):
        runs[rate][100] = make_run(100, START, status=Status.DIVERGED)
    return fit_lr_curve(runs, True, 0.05, all_choose=True)


def test_diverged() -> None:
    """One run that diverged rules its rate out, and counts as the loss before training in what a wrong rate costs."""
    curve = diverged()
    assert [point.diverged for point in curve.points] == [0, 0, 0, 1, 1]
    assert [math.isfinite(point.mean) for point in curve.points] == [True] * 3 + [False] * 2
    assert (curve.best, curve.edge) == (1e-3, "")
    finite = [loss(rate) + 0.1005 for rate in RATES[:3]]
    assert curve.sensitivity == pytest.approx((sum(finite) + 2 * START) / 5 - finite[-1])


def test_edge() -> None:
    """A best rate at an end of the grid is doubted, and so is a grid of few rates; two of them make no parabola."""
    curve = fit_lr_curve(runs_at((1e-4, 3e-4)), True, 0.05, all_choose=True)
    assert (curve.edge, curve.fitted, curve.proposal, len(curve.remarks)) == ("high", None, 3e-4, 2)
    assert fit_lr_curve(runs_at((3e-3, 1e-2, 3e-2, 1e-1)), True, 0.05, all_choose=True).edge == "low"


def test_proposal_is_near() -> None:
    """A parabola whose lowest point lies nearer to another rate of the grid is not believed."""
    curve = fit_lr_curve(runs_at(), True, 0.05, all_choose=True)
    assert curve._replace(fitted=2.8e-3).proposal == curve.best
    assert curve._replace(fitted=None).proposal == curve.best
