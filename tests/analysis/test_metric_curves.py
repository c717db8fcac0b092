"""From rows to a curve, and from a curve to the one number of a run."""

import math

import numpy as np
import pytest

from attnlab.analysis.metric_curves import Curve, curve_of, outcome
from attnlab.config.metric_kinds import parse_metric
from attnlab.store.metrics_csv import Row

ROWS = [
    *(Row(0, "val_accuracy/a", 0.0), Row(0, "val_count/a", 30.0), Row(0, "val_accuracy/b", 0.4)),
    *(Row(0, "val_count/b", 10.0), Row(5, "val_accuracy/a", 1.0), Row(5, "val_count/a", 30.0)),
    *(Row(5, "val_accuracy/b", 0.2), Row(5, "val_count/b", 10.0), Row(7, "val_accuracy/a", 0.5)),
]


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("val_accuracy/a", [0.0, 1.0, 0.5]),
        ("val_accuracy/mean", [0.2, 0.6]),  # every slice alike; step 7 lacks one
        ("val_accuracy/max", [0.4, 1.0]),
        ("val_accuracy/a..b", [0.1, 0.8]),  # every answer alike
    ],
)
def test_curve(metric: str, values: list[float]) -> None:
    """A slice, or several of them."""
    curve = curve_of(parse_metric(metric), ROWS)
    assert curve is not None and curve.values == pytest.approx(values)


def test_absent() -> None:
    """What was not logged has no curve."""
    assert curve_of(parse_metric("val_accuracy/c"), ROWS) is None


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("val/loss", 0.5),
        ("val/loss:area", (20 * 2.0 + 10 * 0.75) / 30),  # 3 to 1 within 20 steps, 1 to 0.5 within 10
        ("val/loss:steps_to_1", 20.0),
        ("val/loss:steps_to_0.4", math.inf),
        ("val/accuracy:steps_to_3", 0.0),
    ],
)
def test_outcome(metric: str, expected: float) -> None:
    """The last value, the mean over steps by trapezoids, and the first step at a threshold."""
    curve = Curve(np.array([0, 20, 30]), np.array([3.0, 1.0, 0.5]))
    assert outcome(parse_metric(metric), curve) == pytest.approx(expected)
