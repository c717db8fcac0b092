"""metrics.csv, the source of truth: every number of a run, one a line."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from attnlab.store import moved
from attnlab.store.damage import Damaged, one_line
from attnlab.store.digests import Digests
from attnlab.store.files import read_file
from attnlab.store.names import METRICS

COLUMNS = ("step", "metric", "value")
STEP = re.compile("[0-9]{1,15}")
NUMBER = re.compile(r"-?(?:[0-9]{1,400}(?:\.[0-9]{1,400})?(?:e[+-]?[0-9]{1,3})?|inf|nan)")  # as repr writes them


class Row(NamedTuple):
    """One number: the step (updates made so far), its name, and its value exactly as it was computed."""

    step: int
    metric: str
    value: float


def read_metrics(folder: Path, digests: Digests = {}, most: int | None = None) -> list[Row]:  # noqa: B006
    """The rows of a run, in the order they were written; a last line that was cut off by a crash is left out.

    With `digests` they are those that stood there when these were taken; whoever takes them checks that. Raises
    Damaged where something else than rows stands; `most` is how many bytes the file may have.
    """
    try:
        data = read_file(folder / METRICS, most)
        text = (data[: digests[METRICS]["size"]] if METRICS in digests else data).decode()
    except FileNotFoundError as error:
        raise Damaged(folder, f"no {METRICS}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(folder, f"{METRICS} cannot be read ({one_line(error)})") from error
    return list(_rows(folder, text[: text.rfind("\n") + 1]))


def _rows(folder: Path, text: str) -> Iterator[Row]:
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        if next(lines, None) != list(COLUMNS):
            raise Damaged(folder, f"{METRICS} does not begin with {','.join(COLUMNS)}")
        for fields in lines:
            if len(fields) != len(COLUMNS) or not STEP.fullmatch(fields[0]) or not NUMBER.fullmatch(fields[2]):
                line = f"line {lines.line_num}: {','.join(fields)[:40]!r}"
                raise Damaged(folder, f"{METRICS}, {line} is not step, metric, value")
            yield Row(int(fields[0]), moved.METRICS.get(fields[1], fields[1]), float(fields[2]))
    except csv.Error as error:
        raise Damaged(folder, f"{METRICS}, line {lines.line_num}: {error}") from error
