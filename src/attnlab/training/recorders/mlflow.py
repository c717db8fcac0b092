"""MLflow: numbers, settings, texts and pictures, in a database or on a server."""

import io
import logging
import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from PIL import Image

from attnlab.training.recorders.tracker import Tracker

MOST_AT_ONCE = 1000  # metrics that a request may hold


class MlflowRecorder(Tracker):
    """Lightning's MLFlowLogger, and what its client takes besides. MLflow gives a run its id, which is kept."""

    package = "mlflow"

    def __init__(self, **settings: Any) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name in ("mlflow", "alembic", "lightning.pytorch.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)  # every table that it makes is a line
        self.logger = logger = MLFlowLogger(**settings)
        self.client, self.run_id = logger.experiment, str(logger.version)
        self.client.update_run(self.run_id, status="RUNNING")  # a run that goes on had ended

    def config(self, settings: Mapping[str, Any]) -> None:
        if not self.client.get_run(self.run_id).data.params:  # they never change
            super().config(settings)

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        items = list(numbers.items())
        for first in range(0, len(items), MOST_AT_ONCE):
            super().scalars(dict(items[first : first + MOST_AT_ONCE]), step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self.client.log_text(self.run_id, markdown, f"texts/{tag}/step_{step:08d}.md")

    def image(self, tag: str, png: bytes, step: int) -> None:
        self.client.log_image(self.run_id, Image.open(io.BytesIO(png)), f"pictures/{tag}/step_{step:08d}.png")

    def last_step(self) -> int | None:
        """The latest of all metrics."""
        tags = self.client.get_run(self.run_id).data.metrics
        steps = [entry.step for tag in tags for entry in self.client.get_metric_history(self.run_id, tag)]
        return max(steps, default=-1)
