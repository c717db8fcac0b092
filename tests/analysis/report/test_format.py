"""Numbers as a report writes them: what is printed is what was measured, to the digits that it shows."""

import math

import numpy as np
import pytest

from attnlab.analysis.report.format import number, p_value, span


@pytest.mark.parametrize("x", [*np.random.default_rng(0).normal(size=20) * 10.0 ** np.arange(-10, 10), 0.0, 99.99995])
def test_number(x: float) -> None:
    """Read back, a number is off by less than a unit of its last digit, and a sign is shown where one is asked for."""
    for text in (number(float(x)), number(float(x), signed=True)):
        assert float(text) == pytest.approx(x, rel=0.05, abs=0) or abs(float(text) - x) <= 0.05 * (abs(x) >= 99) + 5e-5
    assert number(abs(float(x)), signed=True).startswith("+")
    assert (float(number(float(x))) == 0) == (x == 0)  # a difference that is there is never written as none


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "<0.0001"), (9.9e-5, "<0.0001"), (0.00217, "0.0022"), (0.0999, "0.0999"), (0.25, "0.25")]
)
def test_p(p: float, text: str) -> None:
    """Two digits that matter, and never a 0."""
    assert p_value(p) == text


def test_nothing() -> None:
    """What is not there is written as nothing."""
    assert (number(None), p_value(None), span(None)) == ("", "", "")
    assert span((-0.5, math.pi)) == "[-0.5000, +3.1416]" and span((1, 200), signed=False) == "[1.0000, 200.0]"
