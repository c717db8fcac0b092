"""What a sweep shows: how runs stand, and how long the rest takes."""

from pathlib import Path

import pytest
from tests.sweep.test_plan import run

from attnlab.store.status import Status
from attnlab.sweep import progress
from attnlab.sweep.plan import PlannedRun
from attnlab.sweep.progress import Screen, seconds_left, totals
from attnlab.training.identity import SEEDS, Identity
from attnlab.training.notes import duration

NOW = 1000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands still."""
    monkeypatch.setattr("time.monotonic", lambda: NOW)


def at(status: Status, *, seconds: float = 0.0, elapsed: float | None = None, step: int = 0) -> PlannedRun:
    one = run(1, 0.1)
    one.identity = Identity("v", 0, dict.fromkeys(SEEDS, 0), "0" * 16)
    one.status, one.seconds, one.label = status, seconds, "v"
    if elapsed is not None:
        one.began, one.step, one.last_step = NOW - elapsed, step, 100
    return one


def test_left() -> None:
    """The mean of what ended and of what is under way, times what is left, shared by those at work."""
    done, idle = at(Status.FINISHED, seconds=100.0), at(Status.PLANNED)
    assert seconds_left([done, idle, idle, idle], 2) == pytest.approx(3 * 100 / 2)
    half = at(Status.RUNNING, elapsed=100.0, step=50)  # 200 in all
    assert seconds_left([done, half, idle], 1) == pytest.approx(150 - 100 + 150)
    late = at(Status.RUNNING, elapsed=500.0)  # longer than the others took: it is not given less than nothing
    assert seconds_left([done, late], 4) == 0
    assert seconds_left([idle, idle], 2) is None and seconds_left([done], 2) is None


def test_totals() -> None:
    """Every run is counted once; what failed is named only where something did."""
    runs = [at(Status.FINISHED, seconds=60.0), at(Status.FAILED), at(Status.DIVERGED), at(Status.PLANNED)]
    assert totals(runs, 1) == "1 of 4 finished, 2 failed, 0 running, 1 left; about 60 s to go"
    assert totals(runs[:1], 1) == "1 of 1 finished, 0 running, 0 left"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.221, "0.22 s"), (89.4, "89 s"), (91, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (36e3, "10.0 h")],
)
def test_duration(seconds: float, words: str) -> None:
    """In the unit that people would take."""
    assert duration(seconds) == words


def test_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each run that ends; one for those at work only where nothing was said for long."""
    monkeypatch.setattr(PlannedRun, "log", Path("a.log"))
    ended, failed = at(Status.FINISHED, seconds=7.0), at(Status.FAILED)
    ended.val_loss, failed.reason = 1.5, "killed"
    screen = Screen([ended, failed, at(Status.RUNNING, elapsed=1.0, step=5), at(Status.PLANNED)], 1)
    screen.ended(ended)
    screen.refresh()
    screen.ended(failed)
    monkeypatch.setattr("time.monotonic", lambda: NOW + 2 * progress.SECONDS_BETWEEN_LINES)
    screen.refresh()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[2/4] finished v seed 0  val/loss 1.5000  7 s"
    assert lines[1] == "[2/4] failed v seed 0: killed (log: a.log)"
    assert len(lines) == 3 and lines[2].endswith("(v seed 0 5/100)")
