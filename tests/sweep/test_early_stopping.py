"""A sweep that judges after each seed begins no run that its verdicts do not need."""

import itertools
from pathlib import Path

import pytest
from tests.analysis.folders import write_run

from attnlab.config.compose import compose_config
from attnlab.errors import UsageError
from attnlab.store.status import Status
from attnlab.sweep.early_stopping import EarlyStopping
from attnlab.sweep.executor import write_plan
from attnlab.sweep.jobs import Job
from attnlab.sweep.plan import PlannedRun
from attnlab.sweep.reporting import prospects, settings
from attnlab.training.identity import SEEDS, Identity

NAMES = ("multi_head", "linear")


def planned(folder: Path, seeds: int, *declared: str) -> list[PlannedRun]:
    config = compose_config([*declared, f"paths.runs={folder}", "experiment_name=e"])
    runs = []
    for name, seed in itertools.product(NAMES, range(seeds)):
        identity = Identity(name, seed, {"variant": name, **dict.fromkeys(SEEDS, seed)}, "c0de")
        job = Job((f"attention={name}", f"seed={seed}"), config, name, {}, False)
        runs.append(PlannedRun(job, identity, {"solved_at": None}))
    return runs


def test_stops(tmp_path: Path) -> None:
    """Six seeds of one sign are enough; a seventh that is ready before the sixth changes nothing."""
    runs = planned(tmp_path, 9, "report.sequential=true")
    write_plan(runs, [], None)
    stopping = EarlyStopping(runs)
    by_seed = sorted(runs, key=lambda run: run.identity.seed)

    def finish(seed: int) -> list[PlannedRun]:
        for run in by_seed[2 * seed : 2 * seed + 2]:
            loss = (2.0 if run.identity.variant == "multi_head" else 3.0) + 0.01 * seed * len(run.identity.variant)
            write_run(tmp_path / "e", run.identity.variant, seed, loss)
            run.status = Status.FINISHED
        return list(stopping.unneeded())

    assert not any(finish(seed) for seed in (0, 1, 2, 3, 4, 6))
    left = finish(5)
    assert left == [run for run in runs if run.identity.seed > 6] and not list(stopping.unneeded())
    assert {run.status for run in left} == {Status.UNNEEDED}
    assert left[0].reason == "all verdicts were known after 7 seeds"
    for run in left:
        run.status = Status.PLANNED
    assert list(EarlyStopping(runs).unneeded()) == left  # the same command again begins none of them


def test_failed_seed(tmp_path: Path) -> None:
    """A run that failed has ended, and its seed speaks against a verdict."""
    runs = planned(tmp_path, 9, "report.sequential=true")
    write_plan(runs, [], None)
    for run in runs[:6] + runs[9:15]:
        name, seed = run.identity.variant, run.identity.seed
        run.status = Status.FAILED if run is runs[2] else Status.FINISHED
        if run is not runs[2]:
            write_run(tmp_path / "e", name, seed, 2.0 + 0.01 * seed + (name == "linear"))
    assert not list(EarlyStopping(runs).unneeded())


def test_declared(tmp_path: Path) -> None:
    """What is said beforehand, and what cannot be declared."""
    (line,) = prospects(planned(tmp_path, 9, "report.sequential=true"))
    assert line.endswith("9 seeds at most: the sweep ends when all verdicts are known, from 6 seeds on")
    (line,) = prospects(planned(tmp_path, 5, "report.sequential=true"))
    assert line.endswith("no verdict is possible; 6 seeds are the fewest")
    with pytest.raises(UsageError, match=r"^report\.looks \(2\) must be 1 with report\.sequential=true"):
        settings(planned(tmp_path, 2, "report.sequential=true", "report.looks=2"))
    runs = planned(tmp_path, 6)
    runs[0].status = Status.FINISHED
    write_plan(runs, [], None)
    with pytest.raises(UsageError, match=r"^report\.sequential \(true\) was declared otherwise"):
        write_plan(planned(tmp_path, 6, "report.sequential=true"), [], None)
    assert not list(EarlyStopping(runs).unneeded())
