"""What the pictures show: every seed, the mean and its interval, where they belong."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from scipy import stats
from tests.analysis.in_memory import make_arm, make_run

from attnlab.analysis.arms import Arm, arm_of_runs
from attnlab.analysis.compare_arms import compare
from attnlab.analysis.comparison import Rules
from attnlab.analysis.lr_curve import fit_lr_curve
from attnlab.analysis.report import charts
from attnlab.analysis.report.document import Picture
from attnlab.store.status import Status

SVG = "{http://www.w3.org/2000/svg}"


def parts(picture: Picture | None, tag: str) -> list[ElementTree.Element]:
    assert picture is not None
    return list(ElementTree.fromstring(picture.svg).iter(SVG + tag))


def curves() -> Arm:
    runs = [make_run(0, 4.0, 3.0, 1.0), make_run(1, 4.0, 2.0, 2.0), make_run(2, 4.0, 4.0)]  # the last one is shorter
    return arm_of_runs("v", "v-0", {}, runs)


def test_band() -> None:
    """Mean and t interval at every step that all runs have; a single run is its own band, and none has no step."""
    steps, (mean, low, high) = charts.band(curves(), 0.05)
    assert steps.tolist() == [0, 10] and mean.tolist() == [4, 3]
    interval = stats.t.interval(0.95, 2, loc=3, scale=stats.sem([3, 2, 4]))
    assert (low[1], high[1]) == pytest.approx(interval) and low[0] == high[0] == 4
    _, (mean, low, high) = charts.band(make_arm([2.0]), 0.05)
    assert mean.tolist() == low.tolist() == high.tolist() == [2]
    assert charts.band(arm_of_runs("v", "v-0", {}, [make_run(0)]), 0.05)[0].size == 0


def test_learning_curves() -> None:
    """A line for each seed, one for the mean and one for the baseline, in each panel."""
    picture = charts.learning_curves([(curves(), make_arm([2.0, 3.0]))] * 2, "val/loss", 0.05)
    assert len(parts(picture, "polyline")) == 2 * (3 + 2) and len(parts(picture, "polygon")) == 2
    assert charts.learning_curves([(arm_of_runs("v", "v", {}, []), curves())], "val/loss", 0.05) is None


def test_differences() -> None:
    """Dots of seeds and of means stand in the order of what they show, and the hint gives the number."""
    base, other = make_arm([2.0, 2.0, 2.0]), make_arm([2.1, 2.4, 1.9])
    comparisons = compare([(other, base)], Rules(True, 0.05, None))
    dots = parts(charts.differences(comparisons, "val/loss", 0.05, [0.1]), "circle")
    at = {dot[0].text: float(dot.attrib["cx"]) for dot in dots}
    numbers = {text: float(re.findall(r"[+-][\d.]+", text)[0]) for text in at if text is not None}
    assert sorted(numbers.values()) == pytest.approx([-0.1, 0.1, 2 / 15, 0.4], abs=1e-4)
    slope, _, r, *_ = stats.linregress([numbers[t] for t in at if t], [at[t] for t in at if t])
    assert slope > 0 and r == pytest.approx(1, abs=1e-5)
    assert charts.differences([], "val/loss", 0.05, []) is None


def test_lr_curves() -> None:
    """A dot for each seed that finished, a full one for the best rate, and no mean where a seed diverged."""
    rates = (1e-3, 2e-3, 4e-3, 8e-3)
    runs = {rate: {s: make_run(s, 5.0, 2 + np.log2(rate / 2e-3) ** 2) for s in (0, 1)} for rate in rates}
    runs[8e-3][0] = make_run(0, status=Status.DIVERGED)
    curve = fit_lr_curve(runs, True, 0.05, all_choose=True)
    picture = charts.lr_curves([("v", curve)], "val/loss")
    dots = parts(picture, "circle")
    assert len(dots) == 7 + 1 and [dot[0].text for dot in dots if len(dot)] == ["best: 0.002"]
    assert len(parts(picture, "polyline")[0].attrib["points"].split()) == 3
    assert "diverged" in [text.text for text in parts(picture, "text")]
    assert charts.lr_curves([], "val/loss") is None


def test_against_cost() -> None:
    """A panel for each cost and a dot for each variant that has it; more to the right is dearer, higher is more."""
    points = [
        ("base", "baseline", {"FLOPs": 1e6, "state": 100.0}, 2.0),
        ("other", "better", {"FLOPs": 1e8, "state": 0.0}, 1.0),
    ]
    dots = parts(charts.against_cost(points, "val/loss"), "circle")
    assert [dot[0].text for dot in dots] == ["base: 1M, 2", "other: 100M, 1", "base: 100, 2"]
    (x1, y1), (x2, y2) = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in dots[:2]]
    assert x1 < x2 and y1 < y2
    assert charts.against_cost([], "val/loss") is None
