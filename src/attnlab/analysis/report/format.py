"""Numbers and intervals as they are written in a report."""

from collections.abc import Sequence

MOST_LISTED = 40  # rows of what has no result


def number(x: float | None, *, signed: bool = False) -> str:
    """A number with the digits that matter."""
    if x is None:
        return ""
    digits = 4 if abs(x) < 100 else 1
    if x and abs(x) < 5e-4:
        return f"{x:+.1e}" if signed else f"{x:.1e}"
    return f"{x:+.{digits}f}" if signed else f"{x:.{digits}f}"


def p_value(p: float | None) -> str:
    """A p with two digits that matter, and never a 0."""
    if p is None:
        return ""
    return "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def span(interval: Sequence[float] | None, *, signed: bool = True) -> str:
    """An interval."""
    if interval is None:
        return ""
    return f"[{number(interval[0], signed=signed)}, {number(interval[1], signed=signed)}]"
