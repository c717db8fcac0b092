"""Which recorders a run has."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.training.spies import FileLogger

from attnlab.build import Factory
from attnlab.store.run_folder import RunFolder
from attnlab.training.prepare import Prepared
from attnlab.training.recorders.run_recorders import start_anew, writes_events
from attnlab.training.recorders.tensorboard import TensorBoardRecorder
from attnlab.training.recorders.tracker import Notes, Tracker


def prepared(maps: int, *targets: Any) -> Prepared:
    """As much of a run as is asked for here."""
    loggers = {str(i): Factory(target, {}, f"logger.{i}") for i, target in enumerate(targets)}
    fields: dict[str, Any] = dict.fromkeys(Prepared._fields)
    return Prepared(**fields | {"config": SimpleNamespace(maps=SimpleNamespace(steps=maps)), "loggers": loggers})


@pytest.mark.parametrize(
    ("maps", "targets", "writes"),
    [
        (0, (), False),
        (3, (), True),  # for the maps
        (0, (TensorBoardRecorder,), True),
        (0, (FileLogger,), False),  # numbers are in metrics.csv
        (0, (FileLogger, Tracker), True),  # texts and pictures are in no other file
    ],
)
def test_event_files(maps: int, targets: tuple[Any, ...], writes: bool) -> None:
    """They are written where somebody reads them."""
    assert writes_events(prepared(maps, *targets)) == writes


def test_anew(tmp_path: Path) -> None:
    """A run that is started anew is another one for its trackers; one that had none leaves nothing behind."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for expected in (1, 2):
        notes = Notes(folder)
        notes.of("wandb")["step"] = 5
        notes.write()
        start_anew(folder)
        assert Notes(folder).content == {"attempt": expected}
    folder.trackers.unlink()
    start_anew(folder)
    assert not folder.trackers.exists()
