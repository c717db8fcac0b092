"""Numbers as they are written and coloured."""

import math

import numpy as np
import pytest

from attnlab.explain.numbers import LEVELS, MINUS, levels, written


@pytest.mark.parametrize("x", [0.0, 0.47655, -0.00004, 12.5, -999.9999, 1000.0, -123456.0, 1e30])
def test_written(x: float) -> None:
    """Read back, a number is right to four decimals, or three digits where it is large; signs are as wide as plus."""
    text = written(x)
    assert float(text.replace(MINUS, "-")) == pytest.approx(x, rel=5e-3 if abs(x) >= 1000 else 0, abs=5.1e-5)
    assert "-" not in text


def test_small() -> None:
    """What four decimals do not show is written by its power of ten; what rounding leaves of 0 is 0, without a sign."""
    assert [written(x) for x in (3.24e-5, -3.24e-5, 1e-7, 9e-8, -9e-8, 5e-5)] == [
        *(f"3.2e{MINUS}5", f"{MINUS}3.2e{MINUS}5", f"1.0e{MINUS}7", "0.0000", "0.0000", "0.0001"),
    ]


def test_not_finite() -> None:
    """What is no number is written as what it is."""
    assert [written(x) for x in (math.inf, -math.inf, math.nan)] == ["∞", f"{MINUS}∞", "nan"]


def test_levels() -> None:
    """In proportion, alike on both sides of 0, and full from the top on; what is no number has no colour."""
    values = np.array([[0.0, 0.25, -0.25, 0.5], [1.0, -1.0, 7.0, np.nan]])
    a, b = levels(values, 1.0)
    assert (a[0], a[1], b[3]) == (0, -a[2], 0) and 0 < a[1] < a[3] < LEVELS
    assert b[:3].tolist() == [LEVELS, -LEVELS, LEVELS]
    assert np.array_equal(levels(values * 3, 3.0), levels(values, 1.0))
