"""Trackio: numbers, settings, texts and pictures, on this machine or in a Space of Hugging Face."""

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from PIL import Image

from attnlab.training.recorders.tracker import Tracker


class TrackioRecorder(Tracker):
    """A run of trackio, known by its name within its project; all of a step is one row."""

    package = "trackio"

    def __init__(self, *, project: str, name: str, group: str | None = None, **settings: Any) -> None:
        import trackio

        self.trackio, self.project, self.name = trackio, project, name
        self._row: dict[str, Any] = {}
        self._step = 0
        self._config = {key: settings.pop(key) for key in ("job_type",) if key in settings}
        quiet: dict[str, Any] = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        with redirect_stdout(io.StringIO()):
            self.run = trackio.init(project, name=name, group=group, resume="allow", **{**quiet, **settings})

    def config(self, settings: Mapping[str, Any]) -> None:
        self.run.config |= {**self._config, **settings}  # goes with the first row

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        self._row |= numbers
        self._step = step

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._row[tag], self._step = self.trackio.Markdown(markdown), step

    def image(self, tag: str, png: bytes, step: int) -> None:
        self._row[tag], self._step = self.trackio.Image(Image.open(io.BytesIO(png))), step

    def save(self) -> None:
        row, self._row = self._row, {}
        if row:
            self.run.log(row, step=self._step)

    def close(self, status: str = "success") -> None:
        with redirect_stdout(io.StringIO()):
            self.run.finish()

    def given_id(self) -> str | None:
        return str(self.run.id)

    def last_step(self) -> int | None:
        """From its database on this machine; None of a run that is kept elsewhere."""
        from trackio.sqlite_storage import SQLiteStorage

        if not self.run._is_local:
            return None
        step = SQLiteStorage.get_max_step_for_run(self.project, self.name)
        return -1 if step is None else int(step)
