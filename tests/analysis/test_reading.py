"""Run folders as they are found: whole, damaged, half done, planned and never begun."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.analysis.folders import write_arm, write_run

from attnlab.analysis.field_types import OF_MANIFEST, OF_SUMMARY, misfit
from attnlab.analysis.reading import read_experiment
from attnlab.errors import UsageError


def test_reads_what_is_there(tmp_path: Path) -> None:
    """What is found is what is there and it says so."""
    write_arm(tmp_path, "multi_head", [1.0, 1.1])
    found = read_experiment(tmp_path)
    assert [(run.variant, run.seed, run.status, run.final) for run in found.runs] == [
        ("multi_head", 0, "finished", 1.0),
        ("multi_head", 1, "finished", 1.1),
    ]
    assert found.problems == [
        "no manifest.json: what is counted is what was found, not what was planned",
        "2 runs are from before summary.json held digests of all files: they are not checked",
    ]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("half a summary", lambda run: _cut(run / "summary.json"), "summary.json is not JSON"),
    ("a list", lambda run: (run / "summary.json").write_text("[]"), "summary.json lacks status"),
    ("binary", lambda run: (run / "summary.json").write_bytes(b"\xff\xfe\x00"), "summary.json cannot be read"),
    ("no config", lambda run: (run / "config.yaml").unlink(), "no config.yaml"),
    ("broken config", lambda run: (run / "config.yaml").write_text("a: ["), "config.yaml is not YAML"),
    ("foreign config", lambda run: (run / "config.yaml").write_text("a: 1"), "is not the config of a run"),
    ("no metrics", lambda run: (run / "metrics.csv").unlink(), "no metrics.csv"),
    ("empty metrics", lambda run: (run / "metrics.csv").write_text(""), "does not begin with step,metric"),
    ("last row lost", lambda run: _cut(run / "metrics.csv"), "metrics.csv ends at step 20 of 40"),
    ("nonsense", lambda run: (run / "metrics.csv").write_text("step,metric,value\n7,x\n"), "line 2: '7,x'"),
    (
        "a word",
        lambda run: (run / "metrics.csv").write_text("step,metric,value\n40,val/loss,x\n"),
        "is not step, metric",
    ),
    ("header", lambda run: (run / "metrics.csv").write_text("40,val/loss,1\n"), "does not begin with step,metric"),
    (
        "another result",
        lambda run: (run / "metrics.csv").write_text("step,metric,value\n40,val/loss,0.5\n"),
        "ends with val/loss 0.5, but summary.json says 1.1",
    ),
    (
        "another seed's",
        lambda run: (run / "summary.json").write_bytes((run.parent / "seed_0" / "summary.json").read_bytes()),
        "summary.json is that of seed 0",
    ),
    ("a renamed seed", lambda run: run.rename(run.parent / "seed_x"), "'seed_x' is not seed_<number>"),
]


@pytest.mark.parametrize(("damage", "reason"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_damaged_folder(tmp_path: Path, damage: Callable[[Path], object], reason: str) -> None:
    """A damaged folder is named and costs no other run."""
    folders = write_arm(tmp_path, "multi_head", [1.0, 1.1, 1.2])
    damage(folders[1])
    runs = read_experiment(tmp_path).runs
    assert sorted(run.status for run in runs) == ["damaged", "finished", "finished"]
    assert reason in next(run.reason for run in runs if run.status == "damaged")


def test_a_file_where_a_folder_should_be_is_damage(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "multi_head", 0, 1.0)
    (folder.parent / "seed_1").write_text("")
    assert {run.seed: run.status for run in read_experiment(tmp_path).runs} == {0: "finished", 1: "damaged"}


def test_a_result_that_is_no_number_has_diverged(tmp_path: Path) -> None:
    write_run(tmp_path, "multi_head", 0, float("nan"), summary={"val_loss": None})
    write_run(tmp_path, "multi_head", 1, float("nan"), summary={"val_loss": float("nan")})
    write_run(tmp_path, "multi_head", 2, 1.0, status="diverged")
    assert [run.status for run in read_experiment(tmp_path).runs] == ["diverged"] * 3


def test_running_while_locked(tmp_path: Path) -> None:
    """A run without a summary is running while its lock is held."""
    folder = write_run(tmp_path, "multi_head", 0, 1.0)
    (folder / "summary.json").unlink()
    assert read_experiment(tmp_path).runs[0].status == "unfinished"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_experiment(tmp_path).runs[0].status == "running"


def test_the_manifest_counts_what_was_planned(tmp_path: Path) -> None:
    done = write_run(tmp_path, "multi_head", 0, 1.0)
    failed = write_run(tmp_path, "multi_head", 1, 1.0)
    (failed / "summary.json").unlink()
    group = done.parent.name
    rows = [
        {"folder": f"{group}/seed_0", "variant": "multi_head", "seed": 0, "status": "running"},
        {"folder": f"{group}/seed_1", "variant": "multi_head", "seed": 1, "status": "failed", "reason": "killed"},
        {"folder": f"{group}/seed_2", "variant": "multi_head", "seed": 2, "status": "planned"},
        {"folder": f"{group}/seed_3", "variant": "multi_head", "seed": 3, "status": "finished"},
        {"folder": None, "variant": "gqa", "overrides": ["attention=gqa"], "status": "refused", "reason": "no"},
        "nonsense",
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    found = read_experiment(tmp_path)
    told = [(run.variant, run.seed, run.status, run.reason) for run in found.runs]
    assert told == [
        ("multi_head", 0, "finished", ""),  # what became of it, its folder says
        ("multi_head", 1, "failed", "killed"),
        ("multi_head", 2, "planned", ""),
        ("multi_head", 3, "damaged", "manifest.json says finished, but there is no such folder"),
        ("gqa", None, "refused", "no"),
    ]
    assert found.problems[0] == "manifest.json: entry 5 is not a run"


@pytest.mark.parametrize("content", ["{", "3", '{"runs": 1}', "\x00"])
def test_damaged_manifest(tmp_path: Path, content: str) -> None:
    """A damaged manifest is named and the runs are read."""
    write_run(tmp_path, "multi_head", 0, 1.0)
    (tmp_path / "manifest.json").write_text(content)
    found = read_experiment(tmp_path)
    assert [run.status for run in found.runs] == ["finished"]
    assert "which runs were planned is not known" in found.problems[0]


def test_wrong_level_of_folder(tmp_path: Path) -> None:
    """A folder one too high or too deep is refused with the right one."""
    run = write_run(tmp_path / "runs" / "e", "multi_head", 0, 1.0)
    with pytest.raises(UsageError, match=r"holds no runs.*name one of .*runs/e"):
        read_experiment(tmp_path / "runs")
    for deeper in (run, run.parent):
        with pytest.raises(UsageError, match=r"give .*runs/e$"):
            read_experiment(deeper)
    with pytest.raises(UsageError, match="there is no such folder"):
        read_experiment(tmp_path / "nope")


def test_misfit() -> None:
    """A value of another type, a number beyond any count and a text that would change a terminal are named."""
    assert misfit({"step": 3, "variant": None, "anything": []}, OF_SUMMARY) == ""
    assert misfit({"step": True}, OF_SUMMARY) == "step is 'True'"
    assert misfit({"step": 10**30}, OF_SUMMARY) == "step is beyond any count"
    assert misfit({"variant": "\x1b[2J"}, OF_SUMMARY).startswith("variant is ")
    assert misfit({"design": {"margin": "0.1"}}, OF_MANIFEST) == "design.margin is '0.1'"
