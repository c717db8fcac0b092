"""The content of a report: which sections it has, in which order, and the one sentence on top."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from attnlab.analysis.analyse import Report
from attnlab.analysis.arms import Arm
from attnlab.analysis.cost_comparison import cost
from attnlab.analysis.declared import exploratory
from attnlab.analysis.differences import settings_that_differ
from attnlab.analysis.fairness import fairness, held_equal, limits, notes
from attnlab.analysis.report import charts, experiment_sections, verdict_sections
from attnlab.analysis.report.document import Document, Lines, PageLink, Picture, Section, Table, some
from attnlab.analysis.report.where_to_look import where_to_look
from attnlab.analysis.reproducibility import reproducibility


def document(report: Report, folder: Path | None = None, *, pdf: bool = False) -> Document:
    """The whole report, with links as from its folder (left out: beside the runs); `pdf` links PDFs, too."""
    folder = folder or report.experiment.folder.report
    lines = notes(report)
    remarks = Lines("\n".join(lines)) if lines else None
    sections = [
        Section("Noise floor: the baseline against itself", verdict_sections.noise(report)),
        Section("Verdicts", verdict_sections.verdicts(report)),
        Section("Where to look, and what to type next", where_to_look(report, folder)),
        Section("Declared and used", [verdict_sections.declared_and_used(report)]),
        Section("Matched budgets", held_equal(report)),
        Section("Settings that differ", settings_that_differ(report.design.arms)),
        Section(
            "Runs",
            [*experiment_sections.runs(report), *some(remarks)],
        ),
        *([Section("Preregistration", experiment_sections.preregistration(report))] if report.preregistration else []),
        Section("Variance removed by pairing", [verdict_sections.pairing(report)]),
        Section(
            "Learning curves",
            some(charts.learning_curves(_pictured(report), report.experiment.metric, report.rules.alpha)),
        ),
        Section("Learning rates", experiment_sections.learning_rates(report)),
        Section("Main effects and interactions", experiment_sections.effects(report)),
        Section("Aggregate over tasks", experiment_sections.aggregate(report)),
        Section("Success rate", verdict_sections.success_rate(report)),
        Section("How each variant starts", experiment_sections.starts(report)),
        Section("Cost", cost(report)),
        Section("Mean attention maps", experiment_sections.maps(report)),
        Section("Limits", [limits(report)]),
        Section("Reproducibility", reproducibility(report)),
    ]
    mode = fairness(report).mode
    return Document(
        f"{report.experiment.name}: {report.experiment.metric} against {report.baseline.label}",
        _summary(report),
        [_with_files(_with_mode(section, mode), pdf) for section in sections if section.blocks],
    )


def _with_mode(section: Section, mode: str) -> Section:
    """The section, with the matching mode in the caption of every table: no number travels without it."""
    blocks = [
        _captioned(block, f"matched by {mode}") if isinstance(block, Table) else block for block in section.blocks
    ]
    return replace(section, blocks=blocks)


def _with_files(section: Section, pdf: bool) -> Section:
    """The section, with links to the files that hold its pictures."""
    kinds = ("svg", "pdf") if pdf else ("svg",)
    blocks = [
        replace(block, files=tuple(PageLink(kind.upper(), f"pictures/{block.name}.{kind}") for kind in kinds))
        if isinstance(block, Picture)
        else block
        for block in section.blocks
    ]
    return replace(section, blocks=blocks)


def _captioned(shown: Table, note: str) -> Table:
    return replace(shown, caption="; ".join(filter(None, (shown.caption.rstrip("."), note))))


def _summary(report: Report) -> str:
    counts = Counter(c.verdict for c in report.comparisons)
    text = ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) or "nothing to compare"
    way = f"{'lower' if report.rules.lower_is_better else 'higher'} is better"
    way = way if report.rules.judges else "neither way is better"
    text += f" ({after})" if (after := exploratory(report.terms)) else ""
    return f"{text}, on {report.experiment.metric} ({way}), matched by {fairness(report).mode}."


def _pictured(report: Report) -> list[tuple[Arm, Arm]]:
    return [(b, b) for b in report.design.baselines.values()] + report.design.pairs()
