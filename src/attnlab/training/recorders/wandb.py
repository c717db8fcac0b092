"""Weights & Biases: numbers, settings, texts and pictures; offline it writes a folder that `wandb sync` sends."""

import html
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from attnlab.training.recorders.tracker import Tracker

STEP = "trainer/global_step"  # where Lightning's logger puts the step


class WandbRecorder(Tracker):
    """Lightning's WandbLogger, and what its run takes besides; all of a step is one row of its history.

    A run that goes on offline has a folder for each part, all of one id. What a part that was killed had not yet
    written is handed over again.
    """

    package = "wandb"

    def __init__(self, **settings: Any) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline is offline
        logger = WandbLogger(**settings)
        super().__init__(logger)
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
    from wandb.sdk.internal.datastore import DataStore

    store, steps = DataStore(), list[int]()
    store.open_for_scan(str(file))
    while True:
        try:
            data = store.scan_data()
        except (AssertionError, OSError):  # cut off in the middle of a record
            return steps
        if data is None:
            return steps
        record = Record.FromString(data)
        for item in record.history.item:
            if item.key == STEP or list(item.nested_key) == [STEP]:
                steps.append(int(json.loads(item.value_json)))
