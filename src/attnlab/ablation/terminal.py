"""A report in a terminal: the noise floor, the verdicts, and what else has to be known."""

from pathlib import Path

import rich.table
from rich import box
from rich.console import Console
from rich.markup import escape

from attnlab.ablation.content import document, noise, notes, typical
from attnlab.ablation.document import Document, Table, table
from attnlab.ablation.format import MOST_LISTED, line, name_of, number, p_value, span
from attnlab.ablation.report import Report, home_of_report, write
from attnlab.store.status import Status

STYLES = {"better": "green", "worse": "red", "equivalent": "blue", "cannot tell": "dim"}


def publish(report: Report, folder: Path | None, *, board: bool) -> None:
    """Show a report and write its pages into a folder, None: beside the runs; with `board`, its aggregates for
    TensorBoard, too."""
    pages, folder = document(report), folder or home_of_report(report.experiment.folder)
    show(report, pages, Console())
    for path in write(report, pages, folder, board=board):
        print(f"wrote {path}")


def show(report: Report, pages: Document, console: Console) -> None:
    """Print what decides."""
    lines = [pages.title, pages.summary, "", *(block for block in noise(report) if isinstance(block, str))]
    for text in lines:
        console.print(text, markup=False, highlight=False)
    draw(terminal_table(report), console)
    for text in beside_the_table(report):
        console.print(f"- {text}", markup=False, highlight=False)


def terminal_table(report: Report) -> Table:
    """The verdicts in the width of a terminal."""
    rows = [
        [name_of(c), str(c.n), number(c.mean, signed=True), span(c.interval), p_value(c.holm_p), line(c)]
        for c in report.comparisons
    ]
    return table(["variant", "n", "difference", "t interval", "corrected p", "verdict"], rows)


def beside_the_table(report: Report) -> list[str]:
    """What has to be known besides the verdicts, one line each."""
    remarks = [f"{name_of(c)}: {remark}" for c in report.comparisons for remark in c.remarks]
    lost = [run for run in report.experiment.runs if run.status != Status.FINISHED]
    told = [f"{run.status}: {run.name} ({run.reason or 'no reason known'})" for run in lost[:MOST_LISTED]]
    if len(lost) > MOST_LISTED:
        told.append(f"and {len(lost) - MOST_LISTED} more without a result; all are in runs.csv")
    check = report.preregistration
    deviations = []
    if check is not None and check.deviations:
        deviations = ["deviations from the preregistration:", *check.deviations]
    elif check is not None:
        binds = "" if check.preregistration.runs else " (it names no configs of runs)"
        deviations = [f"no deviations from the preregistration{binds}"]
    return [
        *remarks,
        typical(report),
        str(report.looks),
        *told,
        *declared_and_used(report),
        *notes(report),
        *deviations,
    ]


def declared_and_used(report: Report) -> list[str]:
    """What the report goes by, beside what was declared: a line for all that agrees, and one for each that does not."""
    same = ", ".join(f"{term.name} {term.used}" for term in report.terms if not term.change)
    where = ", ".join(dict.fromkeys(term.where for term in report.terms if not term.change))
    others = [
        f"{term.name}: declared {term.declared} ({term.where}), used {term.used}: {term.change}"
        for term in report.terms
        if term.change
    ]
    return [*([f"as declared ({where}): {same}"] if same else []), *others]


def draw(shown: Table, console: Console) -> None:
    """Print a table; rows with a verdict have its colour."""
    grid = rich.table.Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2, header_style="bold")
    for i, column in enumerate(shown.columns):
        grid.add_column(column, justify="right" if i in shown.numbers else "left", overflow="fold")
    for row in shown.rows:
        style = next((style for cell in row for word, style in STYLES.items() if cell.startswith(word)), "")
        grid.add_row(*map(escape, row), style=style)
    console.print(grid)
