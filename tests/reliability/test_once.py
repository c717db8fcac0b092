"""A kill anywhere leaves each number once, in TensorBoard, too; rows that were changed are not believed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.reliability.test_disk import TINY, content, records, train
from tests.training.launch import folder_of, run_here, write_text

import attnlab.training.extrapolation
import attnlab.training.run
from attnlab.analysis.reading import read_experiment
from attnlab.errors import NoUsableCheckpoint, UsageError
from attnlab.store.metrics_csv import read_metrics
from attnlab.store.run_folder import RunFolder


class Killed(BaseException):
    """Stands for SIGKILL: nothing between here and the test may catch it."""


def dies(*_: Any, **__: Any) -> None:
    raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


@pytest.mark.slow
def test_killed_in_the_summary(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last validation and the extrapolation come again, and stand there once, as do texts, layout and graph."""
    for name in ("RunFolder.write_summary", "summarise", "RunFolder.write_summary"):
        with monkeypatch.context() as patch:
            patch.setattr(f"attnlab.training.run.{name}", dies)
            with pytest.raises(Killed):
                train(tmp_path)
    train(tmp_path)
    assert content(folder_of(tmp_path)) == content(folder_of(whole))
    shown = records(folder_of(tmp_path))
    assert len(shown) == len(set(shown)) > 30


@pytest.mark.parametrize("place", ["RunFolder.write_summary", "closing"])
def test_killed_while_lengths_are_added(
    place: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths that are added to a finished run count once, however often that was cut off."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    more = [*TINY[:-1], "evaluation.lengths=[2,3]", f"data.path={whole}/text.txt"]
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(f"attnlab.training.extrapolation.{place}", dies)
            with pytest.raises(Killed):
                run_here(tmp_path, *more)
    summary = run_here(tmp_path, *more)
    rows = [(row.step, row.metric) for row in read_metrics(folder_of(tmp_path))]
    assert len(rows) == len(set(rows)) and (4, "extrapolation_loss/x3") in rows
    shown = records(folder_of(tmp_path))
    assert len(shown) == len(set(shown)) and (4, "vitals/extrapolation_loss/x3") in shown
    assert set(summary["extrapolation"]) == {"1", "2", "3"}


def changed(path: Path, how: str) -> None:
    """Spoil a table in its first third."""
    lines = path.read_text().splitlines(keepends=True)
    if how == "digit":
        lines[2] = lines[2].replace(lines[2][-3], "7" if lines[2][-3] != "7" else "8")
    elif how == "lost line":
        del lines[2]
    elif how == "line twice":
        lines.insert(2, lines[2])
    elif how == "cut":
        lines = lines[:2]
    path.write_text("".join(lines)) if how != "gone" else path.unlink()


DAMAGE = ("digit", "lost line", "line twice", "cut", "gone")
SOME = [how if how == "digit" else pytest.param(how, marks=pytest.mark.slow) for how in DAMAGE]


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that died after its checkpoint of step 2."""
    folder = tmp_path_factory.mktemp("cut off")
    write_text(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attnlab.training.module.LanguageModel, "on_train_batch_end", _dies_after_two)
        with pytest.raises(Killed):
            train(folder)
    return folder


def _dies_after_two(module: Any, *_: Any) -> None:
    if module.trainer.global_step > 2:
        raise Killed


@pytest.mark.parametrize("how", SOME)
def test_changed_rows_are_not_continued(how: str, cut_off: Path, tmp_path: Path) -> None:
    """A checkpoint is usable only with the rows before it; else the run is refused, and overwrite=true starts it."""
    shutil.copytree(cut_off, tmp_path, dirs_exist_ok=True)
    changed(RunFolder(folder_of(tmp_path)).metrics, how)
    with pytest.raises(NoUsableCheckpoint, match=r"step_00000002\.ckpt is whole, but metrics\.csv.*overwrite=true"):
        train(tmp_path)


@pytest.mark.parametrize("how", DAMAGE)
def test_changed_rows_are_noticed(how: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report, attnlab evaluate and the command of a finished run notice rows that were changed."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    run = folder_of(tmp_path)
    changed(RunFolder(run).metrics, how)
    (read,) = read_experiment(run.parents[1]).runs
    assert read.status == "damaged" and read.reason.startswith("metrics.csv ")
    run_here(tmp_path, *TINY, f"data.path={whole}/text.txt")
    assert "warning: metrics.csv" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"metrics\.csv .* nothing is added"):
        attnlab.training.extrapolation.keep(RunFolder(run), [], step=4)
