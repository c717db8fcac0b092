"""Axes and marks: numbers come to the pixels that they belong to, and words stay words."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from attnlab.analysis.report import svg

RANGES = [(0.0, 1.0), (-3.2, 7.7), (1e-3, 2e-3), (0.9, 1e5), (1e-5, 1e-2), (4e11, 5e11)]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_ticks(low: float, high: float, log: bool) -> None:
    """Round numbers within the axis, in order, at least two of them on a straight one and never a crowd."""
    if log and low <= 0:
        low = high / 50
    ticks = svg.PlotAxis(low, high, 0, 100, log).ticks(4)
    assert ticks == sorted(ticks) and all(low * (1 - 1e-6) - 1e-12 <= t <= high * (1 + 1e-6) for t in ticks)
    assert (0 if log else 2) <= len(ticks) <= 9
    for tick in ticks:
        digits = f"{abs(tick):.9e}".partition("e")[0].rstrip("0")
        assert len(digits) <= (2 if log else 4), tick


def test_axis_maps() -> None:
    """Ends come to ends, halves to halves, and on a log axis equal factors are equally far."""
    straight, logarithmic = svg.PlotAxis(2, 4, 100, 0), svg.PlotAxis(1, 100, 0, 50, True)
    assert [straight(x) for x in (2, 3, 4)] == [100, 50, 0]
    assert [logarithmic(x) for x in (1, 10, 100)] == [0, 25, 50]


@pytest.mark.parametrize("log", [False, True])
def test_axis_holds_all(log: bool) -> None:
    """Every finite number lies inside, with room around it; equal ones, none, and infinite ones make no empty axis."""
    for values in ([3.0, 1.0, 8.0], [5.0] * 3, [0.0, -2.0] if not log else [1e-9], [], [np.inf, np.nan, 2.0]):
        axis = svg.axis(values, 0, 100, log=log)
        assert axis.low < axis.high
        assert all(0 < axis(v) < 100 for v in values if np.isfinite(v))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.002, "0.002"), (9999, "9999"), (12_000, "12k"), (3e6, "3M"), (-2.5e9, "-2.5G"), (0.1 + 0.2, "0.3")],
)
def test_short(value: float, text: str) -> None:
    """A number in few characters."""
    assert svg.short(value) == text


def test_words_are_no_markup() -> None:
    """Whatever a variant is called, a drawing can be read, and its words are those that were given."""
    nasty = "<b>&\"'x"
    parts = [svg.text(1, 2, nasty), svg.dot(1, 2, role="ink", hint=nasty)]
    root = ElementTree.fromstring(svg.drawing(10, 20, parts, label=nasty))
    assert [each.text for each in root.iter() if each.text] == [nasty, nasty]
    assert root.attrib["aria-label"] == nasty and root.attrib["viewBox"] == "0 0 10 20"
