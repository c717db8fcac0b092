"""Where numbers go: metrics.csv, one per line, as the source of truth, and TensorBoard's event file as a view of it."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from tensorboard.compat.proto.summary_pb2 import Summary

from attnlab.errors import UsageError
from attnlab.files import write_atomically

FILE_NAME = "metrics.csv"
COLUMNS = ("step", "metric", "value")


class Row(NamedTuple):
    """One number: the step (updates made so far), its name, and its value exactly as it was computed."""

    step: int
    metric: str
    value: float


def read_metrics(run: Path | str) -> list[Row]:
    """The rows of a run, in the order they were written; a last line that was cut off by a crash is left out."""
    path = Path(run) / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return list(_rows(text[: text.rfind("\n") + 1]))


def _rows(text: str) -> Iterator[Row]:
    for fields in csv.reader(io.StringIO(text)):
        if len(fields) == len(COLUMNS) and fields[0].isdigit():
            yield Row(int(fields[0]), fields[1], float(fields[2]))


class MetricsCSV(Logger):
    """Appends rows to metrics.csv in a run's folder; `resume_at` drops what a resumed run will write again."""

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._waiting: list[Row] = []
        self._known: set[tuple[int, str]] = set()

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / FILE_NAME

    @rank_zero_only
    def resume_at(self, step: int | None, source: Path | None = None) -> None:
        """Keep the rows up to `step`, of this run or of the one in `source`, and go on after them; None starts anew."""
        kept = [] if step is None else [row for row in read_metrics(source or self.folder) if row.step <= step]
        # What was written at this very step may come again, from hooks that run at the start and at the end.
        self._known = {(row.step, row.metric) for row in kept if row.step == step}
        write_atomically(self.path, _text([COLUMNS, *kept]).encode(), key="paths.runs")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None, "every number belongs to a step"
        for name, value in metrics.items():
            if (step, name) not in self._known:
                self._waiting.append(Row(step, name, float(value)))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The settings stand in config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        """Write what is waiting, in one append."""
        if self._waiting:
            text, self._waiting = _text(self._waiting), []
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(text)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


class Board(TensorBoardLogger):
    """One event file per part of a run, open from beginning to end, and no other files.

    `resume_at` is the step a resumed run goes on from; TensorBoard then hides what an earlier part wrote after it.
    """

    def __init__(self, folder: Path | str, *, resume_at: int | None) -> None:
        purge = None if resume_at is None else resume_at + 1
        super().__init__(folder, name="", version="", default_hp_metric=False, purge_step=purge)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """All numbers of a step in one event: a call of the writer for each costs several times as much."""
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
        self.experiment.file_writer.add_summary(Summary(value=values), step)

    @rank_zero_only
    def save(self) -> None:
        """Flush what was logged."""
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush, but stay open: a run validates before and after it trains."""
        self.experiment.flush()

    @rank_zero_only
    def close(self) -> None:
        """The end of this part of the run."""
        self.experiment.close()


def _text(rows: Any) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
