"""A report in a terminal: the noise floor, the verdicts, and what else has to be known."""

from rich.console import Console

from attnlab.analysis.analyse import Report
from attnlab.analysis.fairness import notes
from attnlab.analysis.report.document import Document
from attnlab.analysis.report.format import MOST_LISTED
from attnlab.analysis.report.tables import draw, verdicts_table
from attnlab.analysis.report.verdict_sections import noise, typical
from attnlab.machine.environment import harmless
from attnlab.store.status import Status


def show(report: Report, pages: Document, console: Console) -> None:
    """Print what decides."""
    lines = [pages.title, pages.summary, "", *(block for block in noise(report) if isinstance(block, str))]
    for text in lines:
        console.print(harmless(text), markup=False, highlight=False)
    draw(verdicts_table(report.comparisons), console)
    for text in beside_the_table(report):
        console.print(harmless(f"- {text}"), markup=False, highlight=False)


def beside_the_table(report: Report) -> list[str]:
    """What has to be known besides the verdicts, one line each."""
    remarks = [f"{c.arm.title}: {remark}" for c in report.comparisons for remark in c.remarks]
    lost = [run for run in report.experiment.runs if run.status != Status.FINISHED]
    rows = [f"{run.status}: {run.name} ({run.reason or 'no reason known'})" for run in lost[:MOST_LISTED]]
    if len(lost) > MOST_LISTED:
        rows.append(f"and {len(lost) - MOST_LISTED} more without a result; all are in runs.csv")
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
        *rows,
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
