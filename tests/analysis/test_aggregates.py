"""Several tasks at once, against numbers computed by hand."""

from dataclasses import replace

import pytest
from tests.analysis.in_memory import make_arm, make_run

from attnlab.analysis.aggregates import over_tasks, solved
from attnlab.analysis.arms import Arm, BlockDesign, arm_of_runs
from attnlab.store.status import Status

TASKS = ("recall", "parity")


def on_task(task: str, variant: str, finals: list[float]) -> Arm:
    arm = make_arm(finals, variant=variant)
    return replace(arm, label=variant, block=(("data.task", task),))


def design(results: dict[str, list[list[float]]]) -> BlockDesign:
    """Variants with their results on each task; the first is the baseline."""
    arms = [on_task(task, name, f) for name, rows in results.items() for task, f in zip(TASKS, rows, strict=False)]
    return BlockDesign(arms, {arm.block: arm for arm in arms if arm.variant == next(iter(results))}, [])


def test_over_tasks() -> None:
    """Scores are parts of the baseline's mean on the same task; the chance to beat it is counted pair by pair."""
    ours = [[1.0, 2.0, 3.0, 6.0], [10.0, 10.0, 30.0, 50.0]]
    base, other = over_tasks(
        design({"base": [[1.0, 3.0, 1.0, 3.0], [10.0, 30.0, 30.0, 10.0]], "other": ours, "half": ours[:1]}), True, 0.05
    )
    assert (base.label, base.runs, base.iqm, base.improvement) == ("base", 8, 1.0, None)
    # 0.5 0.5 0.5 1 1.5 1.5 2.5 3: without two at either end.
    assert (other.label, other.tasks, other.runs, other.iqm) == ("other", 2, 8, 1.125)
    # Lower: 1 ties twice and beats 2, 2 beats 2, 3 ties 2, 6 none: 6 of 16. 10, 10 as 1; 30 ties 2; 50 none: 7 of 16.
    assert other.improvement == pytest.approx((6 + 7) / 32)
    assert other.improvement_interval is not None and other.improvement_interval.low < 13 / 32
    assert over_tasks(design({"base": ours, "other": ours}), False, 0.05)[1].improvement == 0.5


def test_one_task() -> None:
    """Nothing is averaged where there is one task, or where blocks differ in something else."""
    assert over_tasks(design({"base": [[1.0]], "other": [[2.0]]}), True, 0.05) == []
    arms = [replace(make_arm([1.0]), block=(("model.n_layers", n),)) for n in (2, 4)]
    assert over_tasks(BlockDesign(arms, {arm.block: arm for arm in arms}, []), True, 0.05) == []


def test_solved() -> None:
    """Who ends above the threshold has solved it at the first step that reached it; who diverged never did."""
    runs = [
        make_run(0, 0.0, 0.95, 0.99),
        make_run(1, 0.0, 0.5, 0.9),
        make_run(2, 0.95, 0.99, 0.1),  # lost again what it knew
        make_run(3, status=Status.DIVERGED),
        make_run(4, status=Status.FAILED),  # nothing is known of it
    ]
    arm = arm_of_runs("v", "v-0", {}, runs)
    (row,) = solved([arm, arm_of_runs("w", "w-0", {}, runs[4:])], 0.9, 0.05)
    assert (row.arm, row.solved, row.n) == (arm, 2, 4)
    assert row.median_steps == 20  # Kaplan-Meier: 3/4 after step 10, 1/2 after step 20
    assert 0 < row.share.low < 0.5 < row.share.high < 1
