"""Aggregates as TensorBoard runs: what is read back is what was computed, and nothing is left of an earlier report."""

from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tests.analysis.in_memory import make_run

from attnlab.analysis.arms import arm_of_runs
from attnlab.analysis.report.charts import band
from attnlab.analysis.report.event_files import LINES, write_event_files


def test_round_trip(tmp_path: Path) -> None:
    """Every step of the mean and of both ends, under a name that is one folder."""
    arm = arm_of_runs("v", "v-0", {}, [make_run(0, 4.0, 3.0, 1.0), make_run(1, 4.0, 2.0, 2.0)])
    odd = arm_of_runs("a/b: <c>", "v-1", {}, arm.runs)
    write_event_files(tmp_path / "report", [arm_of_runs("older", "v-2", {}, arm.runs)], "val/loss", 0.05)
    (tmp_path / "report" / "older" / "mean" / "notes").touch()
    write_event_files(tmp_path / "report", [arm, odd], "val/loss", 0.05)
    files = [path for path in (tmp_path / "report").rglob("*") if path.is_file()]
    assert {path.parts[-3] for path in files} == {"a_b_c_", "v", "older"}
    assert [path.name for path in files if "older" in path.parts] == ["notes"], "what is not ours stays"
    steps, values = band(arm, 0.05)
    for line, expected in zip(LINES, values, strict=True):
        (file,) = (tmp_path / "report" / "v" / line).iterdir()
        events = [event for event in EventFileLoader(str(file)).Load() if event.summary.value]
        assert [event.step for event in events] == steps.tolist()
        assert {event.summary.value[0].tag for event in events} == {"val/loss"}
        numbers = [event.summary.value[0].tensor.float_val[0] for event in events]
        assert abs(numbers - expected).max() < 1e-5 * abs(expected).max()
