"""Whatever file operation of a sweep or a report fails, one line says so, and the same command goes on."""

import contextlib
import errno
import io
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from tests.analysis.folders import write_arm
from tests.reliability import SMALL
from tests.reliability.disk import Case, Disk, every_case, failing, trouble
from tests.reliability.strangers import files_below, typed
from tests.reliability.test_disk import content
from tests.training.launch import write_text

from attnlab.config.compose import config_dir, guarded
from attnlab.errors import FileFailure, UsageError
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.files import failures
from attnlab.sweep import reporting, sweeper, worker_tasks
from attnlab.sweep.pool import Event, Pool
from attnlab.sweep.worker import _answer

WORDS = ("data=file", "tokenizer=byte", "model.n_layers=1", "model.n_heads=2", *SMALL, "seed=0,1")


def test_a_report_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep whose report the disk does not take has failed; one that has nothing to compare has not."""
    settings = SimpleNamespace(at_end=True, job=SimpleNamespace(config=SimpleNamespace(code="same")))
    monkeypatch.setattr(reporting, "by_experiment", lambda runs: {ExperimentFolder(Path("e")): runs})
    monkeypatch.setattr(reporting, "settings", lambda runs: settings)
    for error in (UsageError("nothing to compare"), FileFailure("the disk is full")):
        monkeypatch.setattr(reporting, "analyse", Mock(side_effect=error))
        with pytest.raises(FileFailure) if isinstance(error, FileFailure) else contextlib.nullcontext():
            reporting.report([settings])  # type: ignore[list-item]
    assert capsys.readouterr().out.startswith("no report: nothing to compare (")


class HerePool(Pool):
    """What a pool of one worker does, in this process, so that its file operations can be made to fail."""

    def __init__(self) -> None:
        super().__init__(1)
        self.waiting: list[Event] = []

    @property
    def busy(self) -> int:
        return len(self.waiting)

    @property
    def free(self) -> bool:
        return not self.waiting

    def give(self, task: int, kind: str, content: Any) -> None:
        self.waiting.append(Event(task, *_answer(worker_tasks.TASKS[kind], content, lambda *_: None)))

    def events(self, seconds: float) -> Iterator[Event]:
        while self.waiting:
            yield self.waiting.pop(0)

    def shrink(self, size: int) -> None: ...

    def kill(self) -> None: ...


def sweep(folder: Path) -> None:
    """`python train.py -m WORDS` below a folder."""
    places = [f"data.path={folder / 'text.txt'}", f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}"]
    with guarded(), initialize_config_dir(str(config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", overrides=[], run_mode=RunMode.MULTIRUN)
        with failures(), contextlib.redirect_stdout(io.StringIO()):
            sweeper.sweep(
                loader,
                master,
                [*WORDS, *places],
                split=lambda overrides: BasicSweeper.split_arguments(overrides, None)[0],
                local=True,
                n_jobs=1,
                patience=None,
                launch=lambda words: [],
            )


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "pool_for", lambda *_: contextlib.nullcontext(HerePool()))


def outcome(folder: Path) -> dict[str, Any]:
    """What must be the same however often a sweep was cut off."""
    experiment = folder / "runs" / "default"
    listed = json.loads((experiment / "manifest.json").read_text())["runs"]
    runs = {run.name: content(run) for run in experiment.glob("*/seed_*")}
    return {"statuses": sorted((entry["folder"], entry["status"]) for entry in listed), **runs}


@pytest.fixture(scope="module")
def whole_sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """What an undisturbed sweep comes to, and how many operations it makes."""
    folder = tmp_path_factory.mktemp("sweep")
    write_text(folder)
    disk = Disk(folder)
    with pytest.MonkeyPatch.context() as patch, failing(disk):
        patch.setattr(sweeper, "pool_for", lambda *_: contextlib.nullcontext(HerePool()))
        sweep(folder)
    return outcome(folder), len(disk.operations)


def trouble_of_sweep(folder: Path, case: Case, whole: dict[str, Any]) -> str:
    """What is wrong with a sweep whose disk fails and is mended; nothing if all is as it should be."""
    at, number, once = case
    write_text(folder)
    disk = Disk(folder, at, number, once=once)
    if wrong := trouble(disk, lambda: sweep(folder), exit_codes=(1, 2)):
        return wrong
    after = outcome(folder)
    return "".join(f"{disk.operations[at]}: other {part}" for part in whole if after.get(part) != whole[part])


def faults_of_sweep(tmp_path: Path, cases: list[Case], whole: dict[str, Any]) -> list[str]:
    faults = []
    for case in cases:
        folder = tmp_path / "sweep"
        folder.mkdir()
        if wrong := trouble_of_sweep(folder, case, whole):
            faults.append(f"{errno.errorcode[case[1]]} at {wrong}")
        shutil.rmtree(folder)
    return faults


def cases_of(operations: int, n: int | None) -> list[Case]:
    whole = every_case(operations)
    return whole if n is None else random.Random(operations).sample(whole, n)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, None])
def test_sweep(whole_sweep: tuple[dict[str, Any], int], tmp_path: Path, n: int | None) -> None:
    """One line, a documented exit code, nothing lost, and the same command makes what is missing."""
    cases = cases_of(whole_sweep[1], n)
    faults = faults_of_sweep(tmp_path, cases, whole_sweep[0])
    print(f"{len(cases) - len(faults)} of {len(cases)} injected errors into a sweep of {whole_sweep[1]} operations")
    assert not faults, "\n".join(faults)


TOLD = ("damaged", "cannot be read", "could not be counted", "which runs were planned is not known", "unknown")


@pytest.mark.parametrize("n", [12, pytest.param(None, marks=pytest.mark.slow)])
def test_report(tmp_path: Path, n: int | None) -> None:
    """It says what it could not read or write, changes no run, and asked again gives what it would have given."""
    experiment = tmp_path / "e"
    for variant in ("multi_head", "gqa"):
        write_arm(experiment, variant, [3.0, 3.1])
    entries = [{"folder": f"{run.parent.name}/{run.name}", "status": "finished"} for run in experiment.glob("*/seed_*")]
    (experiment / "manifest.json").write_text(json.dumps({"runs": entries}))
    before, disk = dict(files_below(experiment)), Disk(experiment)
    with failing(disk):
        usual = typed("report", f"experiment={experiment}")
    assert usual.code == 0 and not usual.err
    pages, faults = dict(files_below(experiment)), []
    cases = cases_of(len(disk.operations), n)
    for at, number, once in cases:
        shutil.rmtree(experiment)
        for name, data in before.items():
            (experiment / name).parent.mkdir(parents=True, exist_ok=True)
            (experiment / name).write_bytes(data)
        ill = Disk(experiment, at, number, once=once)
        with failing(ill):
            end = typed("report", f"experiment={experiment}")
        again = typed("report", f"experiment={experiment}")
        now = dict(files_below(experiment))
        told = end.code or end.out == usual.out or any(words in end.out for words in TOLD)
        wrong = end.fault or ("" if told else end.out[-300:])
        wrong = wrong or ("" if again == usual else f"asked again: {again.code} {again.err or again.out[-300:]}")
        apart = [name for name in {*now, *pages} if now.get(name) != pages.get(name) and name != "manifest.json"]
        wrong = wrong or ", ".join(apart)
        if wrong:
            faults.append(f"{errno.errorcode[number]} at {ill.operations[at]} ({once}): {wrong}")
    print(
        f"{len(cases) - len(faults)} of {len(cases)} injected errors into a report of {len(disk.operations)} operations"
    )
    assert not faults, "\n".join(faults)
