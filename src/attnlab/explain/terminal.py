"""The worked example as tables in a terminal."""

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attnlab.explain.compare import Pairing
from attnlab.explain.numbers import MOST_COLUMNS, MOST_TOKENS, levels, written
from attnlab.explain.steps import Explanation, Step
from attnlab.inspection.figures import printable

WARM, COLD = "red", "blue"


def show(explanation: Explanation, console: Console, pairing: Pairing | None = None) -> None:
    """Print every step: what the followed token does, then what all do where that fits a screen."""
    console.rule(f"[bold]{escape(explanation.heading)}")
    for text in explanation.about[:2]:
        console.print(escape(text))
    for note in explanation.notes:
        console.print(f"[dim]note: {escape(note)}")
    if pairing is not None:
        console.print(escape(pairing.settings))
    names = [printable(token) for token in explanation.tokens]
    console.print(f"following [bold]{escape(names[explanation.focus])}[/] (token {explanation.focus})\n")
    for step in explanation.steps:
        console.print(f"[bold]{escape(step.title)}[/]  [dim]{escape(step.text)}")
        if pairing is not None:
            console.print(f"[italic]{escape(pairing.verdict(step.key))}")
        for table in _tables(step, names, explanation.focus):
            console.print(table)


def _tables(step: Step, names: list[str], focus: int) -> list[Table]:
    heads = step.values.shape[1 if step.shape == "state" else 0]
    tables = []
    for head in range(heads):
        title = f"head {head}" if heads > 1 else None
        if step.shape == "state":
            rows = step.values[focus, head][:MOST_COLUMNS]
            labels = [f"row {i}" for i in range(len(rows))]
            title = f"after {names[focus]}" + (f", head {head}" if heads > 1 else "")
            tables.append(_table(title, labels, None, rows, None, -1))
            continue
        whole = len(names) <= MOST_TOKENS
        chosen = slice(None) if whole else slice(focus, focus + 1)
        values = step.values[head][chosen]
        hidden = None if step.hidden is None else step.hidden[head][chosen]
        columns = names if step.shape == "pairs" else None
        tables.append(_table(title, names[chosen], columns, values, hidden, focus if whole else 0))
    return tables


def _table(
    title: str | None,
    rows: list[str],
    columns: list[str] | None,
    values: np.ndarray,
    hidden: np.ndarray | None,
    focus: int,
) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=columns is not None)
    table.add_column("")
    shown = min(values.shape[1], MOST_COLUMNS)
    for i in range(shown):
        table.add_column(escape(columns[i]) if columns else "", justify="right")
    top = float(np.abs(np.nan_to_num(values)).max()) or 1.0
    strength = levels(values, top)
    for i, name in enumerate(rows):
        cells = []
        for j in range(shown):
            if hidden is not None and hidden[i, j]:
                cells.append("[dim]·[/]")
                continue
            style = WARM if strength[i, j] > 0 else COLD
            bold = "bold " if abs(strength[i, j]) > 14 else ""
            cells.append(f"[{bold}{style}]{written(float(values[i, j]))}[/]")
        more = [f"[dim]… {values.shape[1]} in all"] if shown < values.shape[1] else []
        table.add_row(f"[bold]{escape(name)}[/]" if i == focus else escape(name), *cells, *more)
    return table
