"""From runs to arms: configurations that differ in their rate alone are one, and what chose the rate judges nothing."""

from pathlib import Path

import pytest
from tests.analysis.folders import write_run
from tests.analysis.in_memory import make_run

from attnlab.analysis.from_runs import arms_of
from attnlab.analysis.reading import Experiment, Run
from attnlab.errors import UsageError
from attnlab.store.experiment_folder import ExperimentFolder

LOSSES = {1e-3: 3.0, 2e-3: 2.0, 4e-3: 2.5, 8e-3: 4.0}


def experiment(folder: Path, runs: list[Run]) -> Experiment:
    return Experiment(ExperimentFolder(folder), "val/loss", runs, {}, [])


def run(seed: int, rate: float, final: float, **config: object) -> Run:
    return make_run(seed, 5.0, final, group=f"v-{rate:g}", config={"optimizer": {"lr": rate}, **config})


def test_tuned_here(tmp_path: Path) -> None:
    """Of runs at several rates the arm is that of the best rate without the seeds that chose it, and names no rate."""
    runs = [run(seed, rate, loss + seed / 1000) for rate, loss in LOSSES.items() for seed in (100, 101)]
    runs += [run(seed, 2e-3, 2.2) for seed in (0, 1, 2)]
    arms = arms_of(experiment(tmp_path, runs), True, 0.05)
    (arm,) = arms.arms
    assert (arm.label, sorted(arm.results), arm.lr_curve is not None) == ("v", [0, 1, 2], True)
    assert "optimizer.lr" not in arm.settings
    assert [each.label for each in arms.single_rates] == [f"v optimizer.lr={rate:g}" for rate in LOSSES]
    assert sorted(arms.single_rates[1].results) == [0, 1, 2, 100, 101]


def test_tuned_elsewhere(tmp_path: Path) -> None:
    """Where the experiment that chose the rate cannot be read, the runs are judged all the same, and it is said."""
    runs = [run(seed, 2e-3, 2.0 + seed, tuned=str(tmp_path / "tuning")) for seed in (0, 1)]
    (arm,) = arms_of(experiment(tmp_path / "e", runs), True, 0.05).arms
    assert sorted(arm.results) == [0, 1] and arm.lr_curve is not None
    (remark,) = arm.lr_curve.remarks
    assert remark.startswith("tuned elsewhere, and no curve can be shown: ") and str(tmp_path / "tuning") in remark


@pytest.mark.parametrize("named", ["runs/tuning", "runs/tuning/tuned.yaml"])
def test_tuning_moved_along(tmp_path: Path, named: str) -> None:
    """It is looked for beside the experiment, also where the folder that it lay in still holds others."""
    (tmp_path / "runs").mkdir()
    for rate, loss in LOSSES.items():
        write_run(tmp_path / "new" / "tuning", "v", 100, loss, settings={"optimizer.lr": rate})
    runs = [run(0, 2e-3, 2.0, tuned=str(tmp_path / named))]
    (arm,) = arms_of(experiment(tmp_path / "new" / "e", runs), True, 0.05).arms
    assert arm.lr_curve is not None and [point.rate for point in arm.lr_curve.points] == [*LOSSES]


def test_codes(tmp_path: Path) -> None:
    """Runs of two codes are two arms, or one where code=any."""
    runs = [
        make_run(i, 1.0, group=f"v-{i}", config={"batch_size": 2}, code={"attnlab.model": str(i) * 16}) for i in (0, 1)
    ]
    for code, seeds in (("same", [[0], [1]]), ("any", [[0, 1]])):
        arms = arms_of(experiment(tmp_path, runs), True, 0.05, code)
        assert [sorted(arm.results) for arm in arms.arms] == seeds and len(arms.remarks) == 1


def test_nothing_to_read(tmp_path: Path) -> None:
    """Runs without a config make no arm."""
    with pytest.raises(UsageError, match=r"holds no run with a readable config\.yaml"):
        arms_of(experiment(tmp_path, [make_run(0, 1.0)]), True, 0.05)
