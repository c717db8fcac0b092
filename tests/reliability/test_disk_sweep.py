"""Whatever file operation of a sweep or a report fails, one line says so, and the same command goes on."""

import contextlib
import copy
import io
import json
import shutil
from collections.abc import Callable, Iterator
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
from tests.reliability.disk import Choice, Troubles, drawn, ended_badly, troubles
from tests.reliability.strangers import files_below, typed
from tests.reliability.test_disk import content
from tests.training.launch import write_text

from attnlab.config.compose import config_dir, guarded
from attnlab.errors import FileFailure, UsageError
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.files import failures
from attnlab.sweep import reporting, sweeper
from attnlab.sweep.pool import Event, Pool
from attnlab.sweep.worker import answered
from attnlab.sweep.worker_tasks import task_of

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # what splits is the one that works
WORDS = ("data=file", "tokenizer=byte", "model.n_layers=1", "model.n_heads=2", *SMALL, "seed=0,1")


def test_a_report_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep whose report the disk does not take has failed; one that has nothing to compare has not."""
    settings = SimpleNamespace(at_end=True, job=SimpleNamespace(config=SimpleNamespace(code="same")))
    monkeypatch.setattr(reporting, "by_experiment", lambda runs: {ExperimentFolder(Path("e")): [settings]})
    monkeypatch.setattr(reporting, "settings", lambda runs: settings)
    for error in (UsageError("nothing to compare"), FileFailure("the disk is full")):
        monkeypatch.setattr(reporting, "analyse", Mock(side_effect=error))
        with pytest.raises(FileFailure) if isinstance(error, FileFailure) else contextlib.nullcontext():
            reporting.report([])
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
        self.waiting.append(Event(task, *answered(task_of(kind), content, lambda *_: None)))

    def events(self, seconds: float) -> Iterator[Event]:
        while self.waiting:
            yield self.waiting.pop(0)

    def shrink(self, size: int) -> None: ...

    def kill(self) -> None: ...


@contextlib.contextmanager
def sweeping(folder: Path) -> Iterator[Callable[[], object]]:
    """`python train.py -m WORDS` below a folder, each time that it is called; what all jobs share is composed once."""
    places = [f"data.path={folder / 'text.txt'}", f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}"]
    with guarded(), initialize_config_dir(str(config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", overrides=[], run_mode=RunMode.MULTIRUN)

        def sweep() -> None:
            with failures(), contextlib.redirect_stdout(io.StringIO()):
                sweeper.sweep(
                    loader,
                    copy.deepcopy(master),
                    [*WORDS, *places],
                    split=lambda overrides: BasicSweeper.split_arguments(overrides, None)[0],
                    local=True,
                    n_jobs=1,
                    patience=None,
                    launch=lambda words: [],
                )

        yield sweep


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "pool_for", lambda *_: contextlib.nullcontext(HerePool()))
    composed: dict[str, Any] = {}  # reads nothing below the folder of a sweep

    def compose(loader: Any, master: Any, requested: Any, usual: Any = sweeper._compose) -> Any:
        key = repr(requested)
        if key not in composed:
            composed[key] = usual(loader, master, requested)
        return copy.deepcopy(composed[key])

    monkeypatch.setattr(sweeper, "_compose", compose)


def outcome(folder: Path) -> dict[str, Any]:
    """What must be the same however often a sweep was cut off."""
    experiment = folder / "runs" / "default"
    listed = json.loads((experiment / "manifest.json").read_text())["runs"]
    runs = {run.name: content(run) for run in experiment.glob("*/seed_*")}
    return {"statuses": sorted((entry["folder"], entry["status"]) for entry in listed), **runs}


def troubles_of_sweep(folder: Path, chosen: Choice) -> Troubles:
    """What is wrong with sweeps whose disk fails and is mended."""
    whole_folder = folder.with_name("whole")
    for each in (folder, whole_folder):
        each.mkdir()
        write_text(each)
    with sweeping(whole_folder) as sweep:
        sweep()
    whole = outcome(whole_folder)

    with sweeping(folder) as sweep:

        def goes_on() -> str:
            sweep()
            after = outcome(folder)
            return ", ".join(
                f"other {part}: {after.get(part)}"[:300] for part in whole if after.get(part) != whole[part]
            )

        return troubles(folder, lambda: ended_badly(sweep, exit_codes=(1, 2)), goes_on, chosen)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, None])
def test_sweep(tmp_path: Path, n: int | None) -> None:
    """One line, a documented exit code, nothing lost, and the same command makes what is missing."""
    ended = troubles_of_sweep(tmp_path / "sweep", drawn(n, "sweep", 600))
    print(f"{ended} of a sweep")
    assert not ended.wrong, "\n".join(ended.wrong)


TOLD = ("damaged", "cannot be read", "could not be counted", "which runs were planned is not known", "unknown")


@pytest.mark.parametrize("n", [6, pytest.param(None, marks=pytest.mark.slow)])
def test_report(tmp_path: Path, n: int | None) -> None:
    """It says what it could not read or write, changes no run, and asked again gives what it would have given."""
    experiment, untouched = tmp_path / "e", tmp_path / "untouched"
    for variant in ("multi_head", "gqa"):
        write_arm(experiment, variant, [3.0, 3.1])
    entries = [{"folder": f"{run.parent.name}/{run.name}", "status": "finished"} for run in experiment.glob("*/seed_*")]
    (experiment / "manifest.json").write_text(json.dumps({"runs": entries}))
    shutil.copytree(experiment, untouched)
    usual = typed("report", f"experiment={experiment}")
    assert usual.code == 0 and not usual.err
    pages = dict(files_below(experiment))
    shutil.rmtree(experiment)
    untouched.rename(experiment)

    def fails() -> str:
        end = typed("report", f"experiment={experiment}")
        told = end.code or end.out == usual.out or any(words in end.out for words in TOLD)
        return end.fault or ("" if told else end.out[-300:])

    def goes_on() -> str:
        again = typed("report", f"experiment={experiment}")
        if again != usual:
            return f"asked again: {again.code} {again.err or again.out[-300:]}"
        now = dict(files_below(experiment))
        return ", ".join(n for n in {*now, *pages} if now.get(n) != pages.get(n) and n != "manifest.json")

    ended = troubles(experiment, fails, goes_on, drawn(n, "report", 140))
    print(f"{ended} of a report")
    assert not ended.wrong, "\n".join(ended.wrong)
