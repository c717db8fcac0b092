"""Whatever file operation fails, a command says one line, loses nothing, and goes on when it is typed again."""

import errno
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tests.reliability import SMALL
from tests.reliability.disk import ERRORS, Case, Disk, every_case, failing, trouble
from tests.training.launch import folder_of, run_here, write_text

from attnlab.store.metrics_csv import read_metrics
from attnlab.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.filterwarnings(  # what a failing disk did not take is still in a file's buffer when that goes
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
TINY = ("model.n_layers=1", *SMALL, "evaluation.lengths=[2]")


def train(folder: Path) -> dict[str, Any]:
    return run_here(folder, *TINY)


def records(run: Path) -> list[tuple[int, str]]:
    """Step and tag of all that TensorBoard shows of a run, but for what is measured in seconds."""
    events = (event for path in sorted(run.glob("events.*")) for event in EventFileLoader(str(path)).Load())
    return [(event.step, value.tag) for event in events for value in event.summary.value]


def content(run: Path) -> dict[str, Any]:
    """What must be the same however often a run was cut off."""
    last = load_checkpoint(run / "checkpoints" / "step_00000004.ckpt")
    return {
        "rows": [row for row in read_metrics(run) if not row.metric.startswith("perf/")],
        "records": sorted(records(run)),
        "weights": {name: tensor.tolist() for name, tensor in last["state_dict"].items()},
        "files": {path.relative_to(run).as_posix().partition(".tfevents")[0] for path in run.rglob("*.*")},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """What an undisturbed run comes to, and how many operations it makes."""
    folder = tmp_path_factory.mktemp("whole")
    write_text(folder)
    disk = Disk(folder)
    with failing(disk):
        train(folder)
    return content(folder_of(folder)), len(disk.operations)


def survives(folder: Path, at: int, number: int, *, once: bool, whole: dict[str, Any]) -> str:
    """What is wrong with a run whose disk fails and is mended; nothing if all is as it should be."""
    write_text(folder)
    disk = Disk(folder, at, number, once=once)
    if wrong := trouble(disk, lambda: train(folder), exit_codes=(1, 2, 5), told=str(folder)):
        return wrong
    for part, value in content(folder_of(folder)).items():
        if value != whole[part]:
            return f"{disk.operations[at]}: other {part}"
    return ""


def faults(tmp_path: Path, cases: list[Case], whole: dict[str, Any]) -> list[str]:
    troubles = []
    for at, number, once in cases:
        folder = tmp_path / "run"
        folder.mkdir()
        name = errno.errorcode[number]
        if wrong := survives(folder, at, number, once=once, whole=whole):
            troubles.append(f"{name} at {wrong}")
        shutil.rmtree(folder)
    return troubles


@pytest.mark.slow
def test_disk_fails_sample(whole: tuple[dict[str, Any], int], tmp_path: Path) -> None:
    """A few operations of a run, each with another error, for this one or from then on."""
    chance = random.Random("disk")
    operations = chance.sample(range(whole[1]), 6)
    cases = [(at, number, at % 2 == 0) for at, number in zip(operations, ERRORS, strict=True)]
    assert faults(tmp_path, cases, whole[0]) == []


@pytest.mark.slow
def test_disk_fails_anywhere(whole: tuple[dict[str, Any], int], tmp_path: Path) -> None:
    """Every operation of a run fails once: with one error after the other, for this one and from then on."""
    cases = every_case(whole[1])
    troubles = faults(tmp_path, cases, whole[0])
    print(f"{len(cases) - len(troubles)} of {len(cases)} injected errors: one line, and the same command went on")
    assert troubles == []
