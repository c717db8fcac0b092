"""The report of an experiment in all its forms: shown in the terminal, as pages, as CSV and for TensorBoard."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from attnlab.analysis.analyse import Report
from attnlab.analysis.arms import Arm
from attnlab.analysis.comparison import Comparison
from attnlab.analysis.fairness import fairness
from attnlab.analysis.groups import changing
from attnlab.analysis.power import Seeds
from attnlab.analysis.report.content import document
from attnlab.analysis.report.document import Document, Picture, to_markdown
from attnlab.analysis.report.event_files import write_event_files
from attnlab.analysis.report.format import as_csv
from attnlab.analysis.report.latex import verdicts_in_latex
from attnlab.analysis.report.pdf import needs_cairosvg, to_pdf
from attnlab.analysis.report.report_page import to_html
from attnlab.analysis.report.report_text import show
from attnlab.analysis.report.where_to_look import next_commands
from attnlab.analysis.statistics import bad_runs_not_excluded
from attnlab.errors import UsageError
from attnlab.inspection.records import tensorboard_command
from attnlab.machine.environment import harmless
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.files import tidy, write_atomically, writing
from attnlab.store.status import Status


def publish(report: Report, folder: Path | None, *, tensorboard: Path | None = None, pdf: bool = False) -> None:
    """Show a report and write its pages into a folder, None: beside the runs; and, if asked, a log for TensorBoard,
    and its pictures as PDF."""
    if pdf:
        needs_cairosvg()
    _check_logs(tensorboard, report.experiment.folder)
    if folder is None:
        folder = report_folder(report.experiment.folder)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # of older versions, whose means counted as runs
    pages = document(report, folder, pdf=pdf)
    show(report, pages, Console())
    for path in write(report, pages, folder):
        print(harmless(f"wrote {path}"))
    if tensorboard is not None:
        with writing(tensorboard, key="tensorboard"):
            write_event_files(tensorboard, report.design.arms, report.experiment.metric, report.rules.alpha)
        print(f"to look at it: {tensorboard_command(tensorboard)}")
    print(harmless("\n".join(["next:", *(f"  {line}" for line in next_commands(report))])))


def _check_logs(folder: Path | None, experiment: ExperimentFolder) -> None:
    """Refuse a log folder where TensorBoard would count a mean as one more run."""
    if folder is None:
        return
    if str(folder) in ("true", "false"):
        raise UsageError(f"tensorboard ({folder}) must be a folder, outside of the runs; left out: no log is written")
    runs = Path(os.path.realpath(experiment.path)).parent
    if Path(os.path.realpath(folder)).is_relative_to(runs):
        raise UsageError(f"tensorboard ({folder}) must lie outside of {runs}: TensorBoard would count means as runs")


def report_folder(experiment: ExperimentFolder, folder: Path | None = None) -> Path:
    """Where the report of an experiment goes unless something else is typed, or this folder of it; refused if that lies
    somewhere else."""
    folder = folder or experiment.report
    for path in (folder, folder / "pictures"):
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(experiment.path)):
            raise UsageError(
                f"{path} is a link that leads out of the experiment; out=FOLDER says where the report goes"
            )
    return folder


def write(report: Report, document: Document, folder: Path) -> list[Path]:
    """Write the report in all its forms into a folder; returns the files that people open."""
    pages: dict[str, str | bytes] = {
        "report.md": to_markdown(document),
        "report.html": to_html(document),
        "verdicts.csv": as_csv(_VERDICT_COLUMNS, (_verdict_row(c, report) for c in report.comparisons)),
        "runs.csv": as_csv(_RUN_COLUMNS, _run_rows(report)),
        "verdicts.tex": verdicts_in_latex(report, f"matched by {fairness(report).mode}"),
        "settings.csv": as_csv(*_settings(report.design.arms)),
    }
    pictures = [block for section in document.sections for block in section.blocks if isinstance(block, Picture)]
    for picture in pictures:
        for file in picture.files:
            pages[file.address] = to_pdf(picture.svg) if file == "PDF" else picture.svg
    for part in (folder, folder / "pictures"):
        tidy(part)
    for name, text in pages.items():
        write_atomically(
            folder / name,
            harmless(text).encode(errors="backslashreplace") if isinstance(text, str) else text,
            key="out",
        )
    return [folder / name for name in pages if "/" not in name]


_VERDICT_COLUMNS = (
    *("variant", "setting", "folder", "baseline", "n", "seeds", "mean_difference", "sd", "low", "high", "p", "holm_p"),
    *("exact_test", "exact_p", "smallest_exact_p", "equivalence_p", "holm_equivalence_p", "bca_low", "bca_high"),
    *("correlation", "variance_removed", "detectable", "seeds_needed", "seeds_for_equivalence", "verdict", "remarks"),
    *("match", "lost", "solved", "baseline_solved", "bad_runs_not_excluded", "look"),
)


def _verdict_row(c: Comparison[Arm], report: Report) -> list[Any]:
    low, high = c.interval or (None, None)
    bca_low, bca_high = c.bca or (None, None)
    return [
        *(
            c.arm.label,
            c.arm.setting,
            c.arm.folder,
            c.baseline.folder,
            c.n,
            " ".join(map(str, c.seeds)),
        ),
        *(c.mean, c.sd, low, high, c.p, c.holm_p, c.exact_test, c.exact_p, c.smallest_exact_p, c.equivalence_p),
        *(c.holm_equivalence_p, bca_low, bca_high, c.pairing.correlation, c.pairing.variance_removed, c.detectable),
        *(_csv_seeds(c.seeds_needed), _csv_seeds(c.seeds_for_equivalence), c.word, "; ".join([*c.marks, *c.remarks])),
        *(c.arm.settings.get("match"), len(c.lost_seeds), *(c.solved[1:3] if c.solved else (None, None))),
        *(bad_runs_not_excluded(c.n, report.rules.alpha) if c.n else None, report.rules.look),
    ]


def _settings(arms: Sequence[Arm]) -> tuple[list[str], list[list[Any]]]:
    """Every setting in which two arms differ, one row each."""
    keys = sorted(key for keys in changing([c.settings for c in arms]) for key in keys)
    return ["setting", *(c.folder for c in arms)], [[key, *(c.settings.get(key) for c in arms)] for key in keys]


def _csv_seeds(seeds: Seeds | None) -> str | None:
    """The range and, between, the number for the spread as seen; nothing for more than 10,000."""
    return (
        None if seeds is None else " ".join("" if x is None else str(x) for x in (seeds.low, seeds.as_seen, seeds.high))
    )


_RUN_COLUMNS = ("folder", "variant", "seed", "status", "reason", "step", "value", "hash", "code", "compared", "match")


def _run_rows(report: Report) -> Iterable[list[Any]]:
    compared = {run.path for c in report.design.arms for run in c.finished.values()}
    for run in report.experiment.runs:
        value = run.final if run.curve is not None and run.status == Status.FINISHED else None
        summary = run.summary
        yield [
            *(run.name, run.variant, run.seed, run.status, run.reason, summary.get("step"), value, summary.get("hash")),
            summary.get("code"),
            run.path in compared,
            run.config.get("match"),
        ]
