"""Whatever file operation fails, a command says one line, loses nothing, and goes on when it is typed again."""

import contextlib
import random
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tests.reliability import SMALL
from tests.reliability.disk import Disk, Troubles, trouble, troubles
from tests.training.launch import folder_of, run_here, tiny

from attnlab.config.compose import compose_config
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.store.metrics_csv import read_metrics
from attnlab.training import run as training
from attnlab.training.checkpoint import load_checkpoint
from attnlab.training.run import run

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # what splits is the one that works
TINY = ("model.n_layers=1", *SMALL, "evaluation.lengths=[2]")


def train(folder: Path) -> dict[str, Any]:
    return run_here(folder, *TINY)


def trains(folder: Path) -> Callable[[], dict[str, Any]]:
    """What `train` does each time that it is called, composed once, which reads nothing below the folder."""
    config = compose_config(tiny(folder, "attention=multi_head", *TINY))
    return lambda: run(config, variant="multi_head")


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
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed run comes to."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return content(folder_of(folder))


def troubles_of_run(tmp_path: Path, whole: dict[str, Any], places: Collection[int] | None = None) -> Troubles:
    """What is wrong with runs whose disk fails and is mended."""
    folder = tmp_path / "run"
    folder.mkdir()
    work = trains(folder)

    def judge(disk: Disk) -> str:
        if wrong := trouble(disk, work, exit_codes=(1, 2, 5), told=str(folder)):
            return wrong
        after = content(folder_of(folder))
        return ", ".join(f"other {part}" for part, value in whole.items() if after[part] != value)

    return troubles(folder, judge, places)


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, None])
def test_disk_fails(whole: dict[str, Any], tmp_path: Path, n: int | None) -> None:
    """A few operations of a run fail, or each one: with one error after the other, once and from then on."""
    ended = troubles_of_run(tmp_path, whole, None if n is None else random.Random("disk").sample(range(300), n))
    print(f"{ended} of a run: one line, and the same command went on")
    assert not ended.wrong, "\n".join(ended.wrong)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["lines", "checkpoints"])
def test_faults_are_noticed(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """An error that is no line of ours, and a list of checkpoints that counts as empty where it cannot be read."""
    if broken == "lines":
        monkeypatch.setattr(training, "failures", contextlib.nullcontext)
    else:
        usual = CheckpointFolder._read

        def read(self: CheckpointFolder) -> dict[str, Any]:
            try:
                return usual(self)
            except OSError:
                return {}

        monkeypatch.setattr(CheckpointFolder, "_read", read)
    assert troubles_of_run(tmp_path, whole, range(280, 330, 7)).wrong
