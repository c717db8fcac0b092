"""Which recorders a run has, by its config."""

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger

from attnlab.build import Factory
from attnlab.store.run_folder import RunFolder
from attnlab.training.prepare import Prepared
from attnlab.training.recorders.recorder import Recorder
from attnlab.training.recorders.tensorboard import TensorBoardRecorder
from attnlab.training.recorders.tracker import Notes, Tracker, Trackers
from attnlab.training.summary import config_to_store


def writes_events(prepared: Prepared) -> bool:
    """Whether a run has event files: for TensorBoard, for its maps, or for trackers that take texts and pictures."""
    targets = [factory.target for factory in prepared.loggers.values()]
    ours = any(inspect.isclass(target) and issubclass(target, Recorder) for target in targets)
    return ours or bool(prepared.config.maps.steps)


def trackers_of(prepared: Prepared, handed_over: Sequence[Logger | Tracker] = ()) -> Trackers:
    """The trackers of a run, ready to go on where they are."""
    config, identity = prepared.config, prepared.identity
    factories: dict[str, Factory | Logger | Tracker] = {
        **{n: f for n, f in prepared.loggers.items() if f.target is not TensorBoardRecorder},
        **{f"{type(logger).__name__}_{i}": logger for i, logger in enumerate(handed_over, start=1)},
    }
    run = f"{config.experiment_name}/{identity.name}/{identity.seed}/{Notes(prepared.folder).attempt}"
    fields: dict[str, Any] = {
        "id": f"{identity.hash8}-{hashlib.sha256(run.encode()).hexdigest()[:8]}",
        "name": f"{identity.variant} seed {identity.seed}",
        "variant": identity.variant,
        "experiment": config.experiment_name,
        "seed": identity.seed,
        "hash": identity.hash8,
        "folder": str(prepared.folder),
    }
    settings = {**config_to_store(prepared), "hash": identity.hash8, "code": identity.code}
    return Trackers(prepared.folder, factories, fields, settings, Path(config.paths.runs) / ".trackers.lock")


def start_anew(folder: RunFolder) -> None:
    """Clear the folder of a run that had trackers such that they take what comes for another run."""
    notes = Notes(folder)
    folder.clear()
    if notes.content:
        notes.content = {"attempt": notes.attempt + 1}
        notes.write()
