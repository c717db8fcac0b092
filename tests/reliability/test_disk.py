"""Whatever file operation fails, a command says one line, loses nothing, and goes on when it is typed again."""

import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tests.reliability import SMALL
from tests.reliability.disk import Choice, Troubles, drawn, ended_badly, troubles
from tests.training.launch import folder_of, run_here, tiny

from attnlab.config.compose import compose_config
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.store.files import failures, write_atomically, writing
from attnlab.store.locks import exclusive
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


def troubles_of_run(tmp_path: Path, whole: dict[str, Any], chosen: Choice) -> Troubles:
    """What is wrong with runs whose disk fails and is mended."""
    folder = tmp_path / "run"
    folder.mkdir()
    work = trains(folder)

    def goes_on() -> str:
        work()
        after = content(folder_of(folder))
        return ", ".join(f"other {part}" for part, value in whole.items() if after[part] != value)

    return troubles(folder, lambda: ended_badly(work, exit_codes=(1, 2, 5), told=str(folder)), goes_on, chosen)


def saves(folder: Path, *, atomically: bool) -> None:
    """Save two numbers one by one, under a lock, with a log that stays open; goes on with what is there."""
    path = folder / "numbers.json"
    with failures(), exclusive(folder / ".lock", wait=False), writing(path, key="x"), open(folder / "log", "a") as log:
        while len(numbers := json.loads(path.read_text()) if path.exists() else []) < 2:
            numbers.append(len(numbers))
            if atomically:
                write_atomically(path, json.dumps(numbers).encode(), key="x")
            else:
                path.write_text(json.dumps(numbers))
            print(len(numbers), file=log, flush=True)


@pytest.mark.parametrize("atomically", [True, False])
def test_splitting(tmp_path: Path, atomically: bool) -> None:
    """Each process has its own files, handles and locks; what cannot be gone on with is noticed, and nothing else."""
    folder = tmp_path / "saved"
    folder.mkdir()
    work = partial(saves, folder, atomically=atomically)

    def goes_on() -> str:
        before = (folder / "log").read_text().split() if (folder / "log").exists() else []
        work()
        numbers, lines = json.loads((folder / "numbers.json").read_text()), (folder / "log").read_text().split()
        return "" if numbers == [0, 1] and lines[: len(before)] == before else f"{numbers}, {lines}"

    ended = troubles(folder, lambda: ended_badly(work, exit_codes=(1, 2), told=str(folder)), goes_on)
    assert ended.injected == 2 * ended.operations > 16
    if atomically:
        assert not ended.wrong and 4 < ended.folders < ended.operations
    else:
        assert ended.wrong and all("JSONDecodeError" in wrong for wrong in ended.wrong)


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, None])
def test_disk_fails(whole: dict[str, Any], tmp_path: Path, n: int | None) -> None:
    """A few operations of a run fail, or each one: with one error after the other, once and from then on."""
    ended = troubles_of_run(tmp_path, whole, drawn(n, "disk", 300))
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
    assert troubles_of_run(tmp_path, whole, lambda _, operation: operation.endswith("checkpoints/manifest.json")).wrong
