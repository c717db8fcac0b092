"""Trackers get each number once, in the order of steps, and none of them ends a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training.spies import FileLogger

from attnlab.inspection.records import Record, encode
from attnlab.store.run_folder import RunFolder
from attnlab.training.recorders.recorder import Recorder
from attnlab.training.recorders.tracker import Notes, TrackedStep, Tracker, Trackers


def tracked(path: Path) -> list[tuple[int, dict[str, float]]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["step"], line["metrics"]) for line in lines if "metrics" in line]


def trackers(folder: Path, **loggers: FileLogger) -> Trackers:
    return Trackers(RunFolder(folder), loggers, {"id": "x"}, {"seed": 0}, folder / ".lock")


def add_rows(folder: Path, *rows: str) -> None:
    with (folder / "metrics.csv").open("a") as file:
        file.write("".join(f"{row}\n" for row in rows))


def test_each_number_once(tmp_path: Path) -> None:
    """What was handed over is not again, neither at the next checkpoint nor by the process that goes on."""
    path = tmp_path / "out"
    add_rows(tmp_path, "step,metric,value", "10,val/loss,2.0", "10,train/loss,3.0", "20,val/loss,1.5")
    first = trackers(tmp_path, file=FileLogger(str(path), id="x"))
    first.commit()
    first.commit()
    expected: list[tuple[int, dict[str, float]]] = [(10, {"val/loss": 2.0, "train/loss": 3.0}), (20, {"val/loss": 1.5})]
    assert tracked(path) == expected
    again = trackers(tmp_path, file=FileLogger(str(path), id="x"))
    add_rows(tmp_path, "30,val/loss,1.0")
    again.commit()
    again.close()
    assert tracked(path) == [*expected, (30, {"val/loss": 1.0})]
    assert Notes(RunFolder(tmp_path)).of("file") == {"id": "x", "hash": "x", "config": True, "step": 30}


def test_one_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says so once and is left alone; the others get everything."""
    add_rows(tmp_path, "step,metric,value", *(f"{step},val/loss,1.0" for step in (10, 20, 30)))
    bad, good = (FileLogger(str(tmp_path / name), id=name, fails_at=at) for name, at in (("bad", 20), ("good", -1)))
    both = trackers(tmp_path, bad=bad, good=good)
    both.commit()
    both.close()
    assert [step for step, _ in tracked(tmp_path / "bad")] == [10]
    assert [step for step, _ in tracked(tmp_path / "good")] == [10, 20, 30]
    assert capsys.readouterr().out.count("warning: logger bad failed (ConnectionError: nobody listens)") == 1


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"attempt": "x"}', '{"attempt": 3}'])
def test_notes(tmp_path: Path, content: str) -> None:
    """A damaged file is that of a run without trackers; what is noted is read again."""
    folder = RunFolder(tmp_path)
    folder.trackers.write_text(content)
    notes = Notes(folder)
    assert notes.attempt == (3 if "3" in content else 0)
    notes.of("wandb")["step"] = 7
    notes.write()
    assert Notes(folder).of("wandb") == {"step": 7} and Notes(folder).of("other") == {}


class Spy(Recorder):
    """Notes what it gets."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def scalars(self, numbers: Any, step: int) -> None:
        self.calls.append((dict(numbers), step))

    def text(self, tag: str, markdown: str, step: int) -> None:
        self.calls.append((tag, markdown, step))

    def save(self) -> None:
        self.calls.append(("saved",))


class MapSpy(Spy):
    def map(self, record: Record) -> None:
        self.calls.append((record,))


def test_step_is_one_piece() -> None:
    """Everything of a step, then one save; maps are decoded for those alone who take them."""
    record = Record(5, 0, "probability", "p", "a", ["a"], np.ones((1, 1, 1), dtype=np.float16), None)
    step = TrackedStep({"a": 1.0}, {"t": "words"}, {}, [encode(record)])
    plain, with_maps = Spy(), MapSpy()
    for spy in (plain, with_maps):
        step.hand_to(spy, 5)
    assert plain.calls == [({"a": 1.0}, 5), ("t", "words", 5), ("saved",)]
    assert [*with_maps.calls[:2], with_maps.calls[3]] == plain.calls
    assert with_maps.calls[2][0].tokens == ["a"] and with_maps.calls[2][0].step == 5


def test_any_logger(tmp_path: Path) -> None:
    """A logger made for Lightning holds numbers and settings; what it called the run is its id."""
    tracker = Tracker()
    tracker.logger = FileLogger(str(tmp_path / "out"), id="run-1")
    tracker.config({"seed": 1})
    tracker.scalars({"val/loss": 2.0}, 3)
    tracker.close("failed")
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [{k: v for k, v in line.items() if k != "id"} for line in lines] == [
        *({"config": {"seed": 1}}, {"step": 3, "metrics": {"val/loss": 2.0}}, {"status": "failed"})
    ]
    assert (tracker.given_id(), tracker.last_step()) == ("run-1", None)
