"""Where numbers go: metrics.csv, one per line, as the source of truth, and TensorBoard's event file as a view of it."""

import csv
import hashlib
import io
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

from attnlab.digests import Digests
from attnlab.errors import UsageError
from attnlab.files import METRICS, named, write_atomically

EVENTS = "events.out.tfevents."  # how the names of TensorBoard's files begin
COLUMNS = ("step", "metric", "value")


class Row(NamedTuple):
    """One number: the step (updates made so far), its name, and its value exactly as it was computed."""

    step: int
    metric: str
    value: float


def read_metrics(run: Path | str) -> list[Row]:
    """The rows of a run, in the order they were written; a last line that was cut off by a crash is left out."""
    path = Path(run) / METRICS
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


def trim(folder: Path, digests: Digests) -> None:
    """Cut event files back to what they held when the digests were taken: TensorBoard shows what comes again once."""
    for path in folder.glob(f"{EVENTS}*"):
        size = digests.get(path.name, {}).get("size", 0)
        if not size:
            path.unlink()
        elif path.stat().st_size > size:
            os.truncate(path, size)


class MetricsCSV(Logger):
    """Appends rows to metrics.csv in a run's folder; `resume_at` drops what a resumed run will write again."""

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._size, self._sha256 = 0, hashlib.sha256()  # of what was written, so that no damage on the disk enters
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
        return self.folder / METRICS

    @rank_zero_only
    def resume_at(self, step: int | None, source: Path | None = None, digests: Digests | None = None) -> None:
        """Keep the rows up to `step`, of this run or of the one in `source`, and go on after them; None starts anew.

        With `digests`, taken at that step, the rows are those that stood there then.
        """
        self._known = set()
        if digests and METRICS in digests:
            data = ((source or self.folder) / METRICS).read_bytes()[: digests[METRICS]["size"]]
        else:
            kept = [] if step is None else [row for row in read_metrics(source or self.folder) if row.step <= step]
            # What was written at this very step may come again, from hooks that run at the start and at the end.
            self._known = {(row.step, row.metric) for row in kept if row.step == step}
            data = _text([COLUMNS, *kept]).encode()
        self._size, self._sha256 = len(data), hashlib.sha256(data)
        write_atomically(self.path, data, key="paths.runs")

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
            data, self._waiting = _text(self._waiting).encode(), []
            self._size += len(data)
            self._sha256.update(data)
            with named(self.path), self.path.open("ab") as file:
                file.write(data)

    def digests(self) -> dict[str, dict[str, Any]]:
        """What the file holds now, by size and SHA-256."""
        return {METRICS: {"size": self._size, "sha256": self._sha256.hexdigest()}}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


class EventFile:
    """An event file that is on the disk when `add_event` returns, which raises what goes wrong.

    TensorBoard's own writes from a thread, whose errors end in a traceback of that thread.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of the seconds in their names.
        taken = [name[:10] for path in folder.glob(f"{EVENTS}*") if (name := path.name[len(EVENTS) :])[:10].isdecimal()]
        second = max([int(time.time()), *(int(digits) + 1 for digits in taken)])
        self.path = folder / f"{EVENTS}{second:010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = self.path.open("xb")
        self._records = RecordWriter(self._file)
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_event(self, event: Event) -> None:
        """Write one event."""
        with named(self.path):
            self._records.write(event.SerializeToString())
            self._file.flush()

    def get_logdir(self) -> str:
        return str(self.path.parent)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        with named(self.path):
            self._file.close()


class EventFileWriter(FileWriter):
    """torch's way of writing events, into an EventFile."""

    def __init__(self, folder: Path) -> None:
        self.event_writer = EventFile(folder)


class EventWriter(SummaryWriter):
    """torch's SummaryWriter, whose events go into an EventFile; those from `purge_step` on hide earlier ones."""

    def _get_file_writer(self) -> FileWriter:
        if self.all_writers is not None:
            return self.file_writer  # type: ignore[unreachable]  # torch's annotations know None alone
        writer = EventFileWriter(Path(self.log_dir))
        if self.purge_step is not None:
            writer.add_event(Event(step=self.purge_step, session_log=SessionLog(status=SessionLog.START)))
            self.purge_step = None
        self.file_writer, self.all_writers = writer, {self.log_dir: writer}  # type: ignore[assignment]
        return writer


class Board(TensorBoardLogger):
    """One event file per part of a run, open from beginning to end, and no other files.

    `resume_at` is the step a resumed run goes on from; a TensorBoard that is running then forgets what came after it.
    """

    def __init__(self, folder: Path | str, *, resume_at: int | None) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)
        self.folder, self._purge = Path(folder), None if resume_at is None else resume_at + 1

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """torch's writer of events, opened at the first use."""
        if self._experiment is None:
            self._experiment = EventWriter(str(self.folder), purge_step=self._purge)
        return self._experiment

    def digests(self) -> dict[str, dict[str, Any]]:
        """The event files of all parts, by their sizes."""
        return {path.name: {"size": path.stat().st_size} for path in self.folder.glob(f"{EVENTS}*")}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """All numbers of a step in one event: a call of the writer for each costs several times as much."""
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
        self.experiment.file_writer.add_summary(Summary(value=values), step)

    @rank_zero_only
    def save(self) -> None:
        """Nothing waits."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Stay open: a run validates before and after it trains."""

    @rank_zero_only
    def close(self) -> None:
        """The end of this part of the run."""
        if self._experiment is not None:
            self._experiment.close()


def digests_of(loggers: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """The files of those loggers that a run has, as they are now."""
    ours = (logger for logger in loggers if isinstance(logger, MetricsCSV | Board))
    return {name: digest for logger in ours for name, digest in logger.digests().items()}


def _text(rows: Any) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
