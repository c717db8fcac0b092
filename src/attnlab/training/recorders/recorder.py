"""The interface by which a run records: settings, numbers, texts, pictures and maps."""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.loggers.logger import Logger

from attnlab.inspection.records import Record


class Recorder:
    """A place for what a run records. What it cannot hold it passes over; this one holds nothing.

    A number's step is how many updates were made when it was measured. What is recorded between two calls of `save`
    belongs together.
    """

    def config(self, settings: Mapping[str, Any]) -> None:
        """The settings of the run, as nested plain data."""

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        """Numbers by their tags."""

    def text(self, tag: str, markdown: str, step: int) -> None:
        """A text in Markdown."""

    def image(self, tag: str, png: bytes, step: int) -> None:
        """A picture, as the bytes of a PNG file."""

    def map(self, record: Record) -> None:
        """The attention map of one layer, in numbers; the record holds its step."""

    def save(self) -> None:
        """Put what waits where it outlives the process."""

    def commit(self) -> None:
        """A checkpoint holds all that was recorded so far, and every step of it is complete."""

    def digests(self) -> dict[str, dict[str, Any]]:
        """The files of the run's folder that this recorder appends to, as they are now, by size (and SHA-256)."""
        return {}

    def close(self, status: str = "success") -> None:
        """Nothing more comes; `status` is success or failed."""


class Recorders(Recorder, Logger):
    """Several recorders as one, and as the logger of a Lightning Trainer.

    A number that was recorded before at the same step is not recorded again: a run that continues comes by hooks that
    it has been through. `recorded` are the tags of those that stand at `step`, the one it goes on from.
    """

    def __init__(self, recorders: Iterable[Recorder], step: int | None = None, recorded: Iterable[str] = ()) -> None:
        super().__init__()
        self.recorders = tuple(recorders)
        self._step, self._recorded = step, set(recorded)

    def config(self, settings: Mapping[str, Any]) -> None:
        for recorder in self.recorders:
            recorder.config(settings)

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        if step != self._step:
            self._step, self._recorded = step, set()
        new = {tag: float(value) for tag, value in numbers.items() if tag not in self._recorded}
        self._recorded |= new.keys()
        for recorder in self.recorders if new else ():
            recorder.scalars(new, step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        for recorder in self.recorders:
            recorder.text(tag, markdown, step)

    def image(self, tag: str, png: bytes, step: int) -> None:
        for recorder in self.recorders:
            recorder.image(tag, png, step)

    def map(self, record: Record) -> None:
        for recorder in self.recorders:
            recorder.map(record)

    def save(self) -> None:
        for recorder in self.recorders:
            recorder.save()

    def commit(self) -> None:
        for recorder in self.recorders:
            recorder.commit()

    def digests(self) -> dict[str, dict[str, Any]]:
        return {name: digest for recorder in self.recorders for name, digest in recorder.digests().items()}

    def close(self, status: str = "success") -> None:
        for recorder in self.recorders:
            recorder.close(status)

    # What Lightning, and callbacks written for it, call.

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None, "every number belongs to a step"
        self.scalars(metrics, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The settings stand in config.yaml."""


def recorder_of(trainer: L.Trainer) -> Recorder:
    """What a Trainer records with; without a Recorder as its logger, what is recorded goes nowhere."""
    return trainer.logger if isinstance(trainer.logger, Recorder) else Recorder()


def as_code(text: str) -> str:
    """Any text as a Markdown block that shows it as it is: a sample may hold some."""
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
