"""What metrics.csv and event files hold."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from attnlab.digests import Digests
from attnlab.errors import UsageError
from attnlab.files import METRICS

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
