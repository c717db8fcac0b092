"""The tables of verdicts: each number stands in its own column, computed here by other means."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.analysis.folders import write_arm

from attnlab.analysis.analyse import Report, analyse
from attnlab.analysis.report.document import Table
from attnlab.analysis.report.verdict_sections import noise, pairing, success_rate, verdict_table
from attnlab.analysis.settings import Options

BASE = np.array([2.0, 2.1, 1.9, 2.05, 1.95, 2.02])
OTHER = BASE + np.array([0.21, 0.19, 0.22, 0.2, 0.18, 0.2])


def row(table: Table) -> dict[str, str]:
    """The only row of a table by its columns."""
    (cells,) = table.rows
    return dict(zip(table.columns, cells, strict=True))


@pytest.fixture
def report(tmp_path: Path) -> Report:
    write_arm(tmp_path, "multi_head", BASE.tolist())
    write_arm(tmp_path, "linear", OTHER.tolist())
    return analyse(tmp_path, Options(margin=0.5))


def test_verdict_table(report: Report) -> None:
    """Mean, interval, both p and the seeds that bad runs would need."""
    test = stats.ttest_rel(OTHER, BASE)
    low, high = test.confidence_interval(0.95)
    cells = row(verdict_table(report))
    assert (cells["variant"], cells["verdict"].partition(";")[0], cells["n"]) == ("linear", "worse", "6")
    assert "lost" not in cells  # a column in which nothing stands
    assert cells["mean difference"] == f"{(OTHER - BASE).mean():+.4f}"
    assert cells["95 % t interval"] == f"[{low:+.4f}, {high:+.4f}]"
    assert (cells["t test p"], cells["exact p"], cells["exact test"]) == ("<0.0001", f"{2 / 2**6:.4f}", "sign flips")
    assert cells["bad runs not excluded"] == f"{100 * (1 - 0.05 ** (1 / 6)):.0f} %"


def test_pairing(report: Report) -> None:
    """The correlation of pairs, and the variance of a difference that it took away."""
    cells = row(pairing(report))
    removed = 1 - np.var(OTHER - BASE) / (np.var(OTHER) + np.var(BASE))
    assert cells["correlation of paired runs"] == f"{np.corrcoef(OTHER, BASE)[0, 1]:+.3f}"
    assert cells["variance removed"] == f"{100 * removed:.1f} %"


def test_noise(report: Report, tmp_path: Path) -> None:
    """The band of the baseline against itself; of a single run it cannot be measured."""
    (text,) = noise(report)
    band = stats.t.ppf(0.975, 5) * BASE.std(ddof=1) * np.sqrt(2 / 6)
    assert isinstance(text, str) and f"differ in mean by up to {band:.4f} in 95 % of cases" in text
    write_arm(tmp_path / "one", "multi_head", [2.0])
    write_arm(tmp_path / "one", "linear", [2.0])
    (text,) = noise(analyse(tmp_path / "one"))
    assert isinstance(text, str) and text.startswith("multi_head has 1 finished run: its noise cannot be measured")


def test_success_rate(report: Report, tmp_path: Path) -> None:
    """Seeds that solved a task, the share with its Wilson interval, and by when half had; nothing without a task."""
    assert success_rate(report) == []
    about = {"metric": "val/accuracy", "summary": {"solved_at": 0.9}}
    write_arm(tmp_path / "task", "multi_head", [0.95] * 4, curve=[0.1], **about)
    write_arm(tmp_path / "task", "linear", [0.95, 0.5, 0.5, 0.5], curve=[0.1], **about)
    (table,) = success_rate(analyse(tmp_path / "task"))
    assert isinstance(table, Table)
    interval = stats.binomtest(1, 4).proportion_ci(0.95, method="wilson")
    rows = {line[0]: dict(zip(table.columns, line, strict=True)) for line in table.rows}
    assert rows["linear"]["solved"] == "1 of 4" and rows["linear"]["median steps"] == "not reached by half"
    assert rows["linear"]["share"] == f"[{interval.low:.4f}, {interval.high:.4f}]"
    assert rows["multi_head"]["solved"] == "4 of 4" and rows["multi_head"]["median steps"] == "40"
