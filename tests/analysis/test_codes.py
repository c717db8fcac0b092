"""What a report does with runs that other code has made: no mean across codes unless asked for, and either is said."""

import json
from pathlib import Path

import pytest
from tests.analysis.folders import CODE, write_arm, write_run
from tests.analysis.in_memory import make_run

from attnlab.analysis.analyse import Report, analyse
from attnlab.analysis.codes import across_codes, alike_but_for_code, of_latest_code, remarks
from attnlab.analysis.fairness import notes
from attnlab.analysis.groups import Group
from attnlab.analysis.reading import read_experiment
from attnlab.analysis.settings import Options
from attnlab.analysis.tuned_variants import read_tuning
from attnlab.store.status import Status

NEW = CODE | {"attnlab.model": "2" * 16}
LINEAR = {"attnlab.attention.linear": "3" * 16}
BEFORE = {"summary": {"started": "2026-01-01T00:00:00+00:00"}}


def said(report: Report) -> str:
    return "\n".join(notes(report))


def arms(report: Report) -> dict[str, list[int]]:
    """The seeds of every arm, by its label and its block."""
    return {f"{c.label} {c.setting}".strip(): sorted(c.finished) for c in report.design.arms}


def test_one_code_is_not_mentioned(tmp_path: Path) -> None:
    """Variants that use modules of their own are by one code where the modules that they share agree."""
    write_arm(tmp_path / "e", "multi_head", [3.0, 3.1])
    write_arm(tmp_path / "e", "linear", [2.9, 3.0], code=CODE | LINEAR)
    report = analyse(tmp_path / "e")
    assert list(arms(report)) == ["multi_head", "linear"] and "code" not in said(report)
    assert report.comparisons[0].n == 2 and not any("code" in remark for remark in report.comparisons[0].remarks)


def test_no_mean_across_codes(tmp_path: Path) -> None:
    """Seeds of two codes are two arms, each held against the baseline of its own code."""
    for code, finals in ((CODE, [3.0, 3.1]), (NEW, [3.2, 3.3, 3.4])):
        write_arm(tmp_path / "e", "multi_head", finals, code=code)
        write_arm(tmp_path / "e", "linear", [final - 0.1 for final in finals], code=code | LINEAR)
    report = analyse(tmp_path / "e")
    assert sorted(arms(report).values()) == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2]]
    assert [(c.n, c.baseline.settings["code.attnlab.model"]) for c in report.comparisons] == [
        (c.n, c.arm.settings["code.attnlab.model"]) for c in report.comparisons
    ]
    assert "multi_head was trained by 2 codes (changed: attnlab.model): not averaged (code=any does)" in said(report)


def test_a_mean_across_codes_if_asked(tmp_path: Path) -> None:
    """With code=any the seeds of all codes belong together; of a seed that ran twice the latest counts."""
    write_arm(tmp_path / "e", "multi_head", [3.0, 3.1], **BEFORE)
    for seed in (1, 2):
        write_run(tmp_path / "e", "multi_head", seed, 4.0 + seed, code=NEW)
    write_arm(tmp_path / "e", "linear", [2.9, 3.0, 3.1], code=CODE | LINEAR)
    report = analyse(tmp_path / "e", Options(code="any"))
    assert arms(report) == {"multi_head": [0, 1, 2], "linear": [0, 1, 2]}
    assert [run.final for _, run in sorted(report.baseline.finished.items())] == [3.0, 5.0, 6.0]
    assert "multi_head was trained by 2 codes (changed: attnlab.model): averaged (code=any)" in said(report)


def test_compared_across_codes(tmp_path: Path) -> None:
    """Where a variant and its baseline are by other code, the verdict says so."""
    write_arm(tmp_path / "e", "multi_head", [3.0, 3.1])
    write_arm(tmp_path / "e", "linear", [2.9, 3.0], code=NEW | LINEAR)
    (comparison,) = analyse(tmp_path / "e").comparisons
    assert "differs from the baseline in code (changed: attnlab.model), too" in comparison.remarks


def test_who_does_not_use_it(tmp_path: Path) -> None:
    """A variant that uses nothing of what was edited is held against the latest baseline."""
    write_arm(tmp_path / "e", "multi_head", [3.0, 3.1], code=CODE | {"softmax": "4" * 16}, **BEFORE)
    write_arm(tmp_path / "e", "multi_head", [3.2, 3.3], code=CODE | {"softmax": "5" * 16})
    write_arm(tmp_path / "e", "linear", [2.9, 3.0], code=CODE | LINEAR)
    (comparison,) = analyse(tmp_path / "e").comparisons
    assert comparison.baseline.settings["code.softmax"] == "5" * 8
    assert not any("code" in remark for remark in comparison.remarks)


def test_code_unknown(tmp_path: Path) -> None:
    """Runs from before code was recorded are comparable among each other, and stand apart from others."""
    for variant in ("multi_head", "linear"):
        write_arm(tmp_path / "e", variant, [3.0, 3.1], code=None)
    report = analyse(tmp_path / "e")
    assert arms(report) == {"multi_head": [0, 1], "linear": [0, 1]} and report.comparisons[0].n == 2
    assert "which code made 4 of 4 runs is unknown" in said(report)
    write_run(tmp_path / "e", "multi_head", 2, 3.2)
    report = analyse(tmp_path / "e", Options(baseline="multi_head"))
    assert sorted(arms(report).values()) == [[0, 1], [0, 1], [2]]
    assert "which code made 4 of 5 runs is unknown" in said(report)


def test_continued_by_other_code(tmp_path: Path) -> None:
    """A run of two codes is averaged with those of neither."""
    for folder in write_arm(tmp_path / "e", "multi_head", [3.0, 3.1, 3.2])[2:]:
        record = json.loads((folder / "code.json").read_text())
        later = [{"hash": "b", "modules": NEW, "from_step": 20}]
        (folder / "code.json").write_text(json.dumps({**record, "later": later}))
    assert sorted(arms(analyse(tmp_path / "e")).values()) == [[0, 1], [2]]
    assert list(arms(analyse(tmp_path / "e", Options(code="any"))).values()) == [[0, 1, 2]]


@pytest.mark.parametrize("text", ["{", '{"hash": 1}'])
def test_damaged_record(tmp_path: Path, text: str) -> None:
    """A folder whose code.json says nothing is counted, and named."""
    *_, folder = write_arm(tmp_path / "e", "multi_head", [3.0, 3.1, 3.2])
    (folder / "code.json").write_text(text)
    report = analyse(tmp_path / "e")
    assert arms(report) == {"multi_head": [0, 1]}
    (run,) = [run for run in report.experiment.runs if run.status == "damaged"]
    assert "code.json" in run.reason


def test_renamed_folder(tmp_path: Path) -> None:
    """A folder that was renamed to another code's tells of another run."""
    *_, folder = write_arm(tmp_path / "e", "multi_head", [3.0, 3.1])
    folder.parent.rename(folder.parent.with_name(folder.parent.name[:-4] + "beef"))
    assert {run.status for run in read_experiment(tmp_path / "e").runs} == {"damaged"}


def test_tuning_goes_by_the_latest_code(tmp_path: Path) -> None:
    """A rate is chosen from the runs of the latest code alone, and that others are left out is said."""
    for code, started, best in ((CODE, "2026-01-01", 1e-3), (NEW, "2026-01-02", 4e-3)):
        for rate in (5e-4, 1e-3, 2e-3, 4e-3, 8e-3):
            loss = 3 + abs(rate - best) * 100
            settings, summary = {"optimizer.lr": rate}, {"started": f"{started}T00:00:00+00:00"}
            write_run(tmp_path / "e", "multi_head", 100, loss, code=code, settings=settings, summary=summary)
    (entry,) = read_tuning(read_experiment(tmp_path / "e"), True, 0.05)
    assert entry.lr_curve.best == 4e-3 and entry.apart == {}
    assert "what other code made before is left out" in entry.lr_curve.remarks


def group(folder: str, day: int, digits: str, seeds: dict[int, float], lr: float = 1e-3) -> Group:
    """Runs of one code, begun on a day; a seed whose result is 0 has failed."""
    about = {"summary": {"started": f"2026-01-0{day}"}, "code": {"attnlab.model": digits}}
    runs = [
        make_run(seed, final, group=folder, status=Status.FINISHED if final else Status.FAILED, **about)
        for seed, final in seeds.items()
    ]
    return Group(folder, "v", {"optimizer.lr": lr, "code.attnlab.model": digits}, runs)


def test_latest_of_each_seed() -> None:
    """Across codes a seed counts with its latest result; a later run that failed takes no result away."""
    old, new = group("old", 1, "1", {0: 1.0, 1: 2.0, 2: 0.0}), group("new", 2, "2", {1: 5.0, 2: 6.0, 0: 0.0})
    assert [[each.folder for each in alike] for alike in alike_but_for_code([new, old])] == [["old", "new"]]
    (merged,) = across_codes([new, old])
    assert {seed: run.final for seed, run in merged.results.items()} == {0: 1.0, 1: 5.0, 2: 6.0}
    assert merged.settings == {"optimizer.lr": 1e-3}


def test_latest_code_of_a_grid() -> None:
    """A grid of rates is by one code, the latest of any of its rates."""
    grid = [group("a", 1, "1", {0: 1.0}), group("b", 2, "1", {0: 1.0}, 2e-3), group("c", 3, "2", {0: 1.0})]
    assert [each.folder for each in of_latest_code(grid, besides="optimizer.lr")] == ["c"]
    assert [each.folder for each in of_latest_code(grid, besides="")] == ["b", "c"]


def test_remarks() -> None:
    """Which modules changed within a variant, and of how many runs the code is unknown."""
    groups = [group("a", 1, "1", {0: 1.0}), group("b", 2, "2", {1: 1.0})]
    assert remarks(groups[:1], "same") == []
    assert remarks(groups, "any") == ["v was trained by 2 codes (changed: attnlab.model): averaged (code=any)"]
    unknown = Group("c", "w", {"code": "unknown"}, [make_run(0, 1.0), make_run(1, 1.0)])
    (line,) = remarks([groups[0], unknown], "same")
    assert line.startswith("which code made 2 of 3 runs is unknown")
