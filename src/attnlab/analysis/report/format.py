"""Numbers, intervals and tables as they are written in a report."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

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


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as a file of comma-separated values."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_cell(column) for column in columns])
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    """A cell; a spreadsheet would run a text that begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {*"=+-@\t\r"} else "" if value is None else value
