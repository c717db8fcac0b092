"""metrics.csv, the source of truth: every number of a run, one a line."""

import csv
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlab.store.digests import Digests, read_checked
from attnlab.store.files import named, write_atomically
from attnlab.store.metrics_csv import COLUMNS, Row
from attnlab.store.names import METRICS
from attnlab.store.run_folder import RunFolder
from attnlab.training.recorders.recorder import Recorder


class MetricsRecorder(Recorder):
    """Appends rows to metrics.csv in a run's folder."""

    def __init__(self, folder: os.PathLike[str]) -> None:
        self.folder = RunFolder(Path(folder))
        self._size, self._sha256 = 0, hashlib.sha256()  # of what was written, so that no damage on the disk enters
        self._waiting: list[Row] = []

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder.metrics

    def resume_at(self, step: int | None, source: RunFolder | None = None, digests: Digests | None = None) -> set[str]:
        """Keep the rows up to `step`, of this run or of the one in `source`, and go on after them; None starts anew.

        With `digests`, taken at that step, the rows are those that stood there then. Gives the tags of the rows at
        that step.
        """
        if digests and METRICS in digests:
            data = read_checked((source or self.folder).path, METRICS, digests[METRICS])
        else:
            rows = [] if step is None else [row for row in (source or self.folder).read_metrics() if row.step <= step]
            data = _text([COLUMNS, *rows]).encode()
        self._size, self._sha256 = len(data), hashlib.sha256(data)
        write_atomically(self.path, data, key="paths.runs")
        return set() if step is None else {row.metric for row in self.folder.read_metrics() if row.step == step}

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        self._waiting += [Row(step, tag, float(value)) for tag, value in numbers.items()]

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

    def close(self, status: str = "success") -> None:
        self.save()


def _text(rows: Any) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
