"""Tables in a terminal, and the one of verdicts."""

from collections.abc import Iterable

import rich.table
from rich import box
from rich.console import Console
from rich.markup import escape

from attnlab.analysis.comparison import A, Comparison
from attnlab.analysis.report.document import Table, table
from attnlab.analysis.report.format import number, p_value, span
from attnlab.machine.environment import harmless

STYLES = {"better": "green", "worse": "red", "equivalent": "blue", "cannot tell": "dim"}


def verdicts_table(comparisons: Iterable[Comparison[A]]) -> Table:
    """The verdicts in the width of a terminal."""
    comparisons = list(comparisons)
    interval = "interval at any stop" if any(c.sequential for c in comparisons) else "t interval"
    rows = [
        [c.arm.title, str(c.n), number(c.mean, signed=True), span(c.interval), p_value(c.holm_p), c.line]
        for c in comparisons
    ]
    return table(["variant", "n", "difference", interval, "corrected p", "verdict"], rows)


def draw(shown: Table, console: Console, *, piped: int = 0) -> None:
    """Print a table; rows with a verdict have its colour. In a file or a pipe columns have room for so many letters."""
    if not console.is_terminal:
        console.width = max(console.width, piped * len(shown.columns))
    grid = rich.table.Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2, header_style="bold")
    for i, column in enumerate(shown.columns):
        grid.add_column(escape(harmless(column)), justify="right" if i in shown.numbers else "left", overflow="fold")
    for row in shown.rows:
        style = next((style for cell in row for word, style in STYLES.items() if cell.startswith(word)), "")
        grid.add_row(*(escape(harmless(cell)) for cell in row), style=style)
    console.print(grid)
