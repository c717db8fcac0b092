"""What a report may be told to go by."""

import math

from attnlab.store.terms import is_alpha, is_margin


def test_terms() -> None:
    """Numbers by which a t test can judge, and nothing else."""
    assert all(map(is_alpha, (1e-9, 0.05, 0.499))) and all(map(is_margin, (1e-300, 1, 1e15)))
    assert not any(map(is_alpha, (0, 0.5, 1e-10, math.nan, "0.05", None)))
    assert not any(map(is_margin, (0, -1.0, math.inf, math.nan, True, "1", 1e16)))
