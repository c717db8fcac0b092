"""Weights & Biases: numbers, settings, texts and pictures; offline it writes a folder that `wandb sync` sends."""

import html
import io
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from attnlab.training.recorders.tracker import Tracker

STEP = "trainer/global_step"  # where Lightning's logger puts the step
HEAD_BYTES, BLOCK_BYTES, CHUNK_HEAD_BYTES = 7, 2**15, 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # what a chunk is of its record


class WandbRecorder(Tracker):
    """Lightning's WandbLogger, and what its run takes besides; all of a step is one row of its history.

    A run that goes on offline has a folder for each part, all of one id. What a part that was killed had not yet
    written is handed over again.
    """

    package = "wandb"

    def __init__(self, **settings: Any) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline is offline
        self.logger = logger = WandbLogger(**settings)
        self._row: dict[str, Any] = {}
        import wandb

        if wandb.run is not None:  # of another job in this process, which would get these numbers
            wandb.finish()
        self._folders = sorted(Path(logger.save_dir or ".").glob(f"wandb/*run-*-{settings.get('id')}"))
        self.run = logger.experiment

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        self._row |= {**numbers, STEP: step}

    def text(self, tag: str, markdown: str, step: int) -> None:
        import wandb

        self._row |= {tag: wandb.Html(f"<pre>{html.escape(markdown)}</pre>", inject=False), STEP: step}

    def image(self, tag: str, png: bytes, step: int) -> None:
        import wandb

        self._row |= {tag: wandb.Image(Image.open(io.BytesIO(png))), STEP: step}

    def save(self) -> None:
        row, self._row = self._row, {}
        if row:
            self.run.log(row)

    def close(self, status: str = "success") -> None:
        super().close(status)
        self.run.finish(exit_code=0 if status == "success" else 1)

    def last_step(self) -> int | None:
        """From the files of earlier parts; None where there are none: they were sent and removed, or the run is new."""
        files = [file for folder in self._folders for file in folder.glob("run-*.wandb")]
        return max((step for file in files for step in steps_in(file)), default=-1) if files else None


def steps_in(file: Path) -> list[int]:
    """The steps of the rows in one of W&B's own files, as far as it was written."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = [Record.FromString(data).history.item for data in records_in(file.read_bytes())]
    items = [item for row in rows for item in row if STEP in (item.key, "/".join(item.nested_key))]
    return [int(json.loads(item.value_json)) for item in items]


def records_in(data: bytes) -> Iterator[bytes]:
    """The records of such a file: LevelDB's log format, after a head of its own. One that is cut off is left out."""
    start, record = HEAD_BYTES, b""
    while start + CHUNK_HEAD_BYTES <= len(data):
        room = BLOCK_BYTES - start % BLOCK_BYTES
        if room < CHUNK_HEAD_BYTES:  # filled up with zeros
            start += room
            continue
        length, kind = struct.unpack_from("<4xHB", data, start)
        start += CHUNK_HEAD_BYTES + length
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or start > len(data):
            return
        record = (b"" if kind in (WHOLE, FIRST) else record) + data[start - length : start]
        if kind in (WHOLE, LAST):
            yield record
