"""The aggregates of a report as TensorBoard runs of their own: per variant its mean and the two ends of its band."""

import re
from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from attnlab.analysis.arms import Arm
from attnlab.analysis.report.charts import band
from attnlab.config.metric_kinds import parse_metric
from attnlab.store.names import EVENTS

NAME = f"{EVENTS}0.report"
LINES = ("mean", "low", "high")


def write_event_files(folder: Path, arms: Sequence[Arm], metric: str, alpha: float) -> None:
    """Write <folder>/<variant>/{mean,low,high}/; the files of an earlier report go, whatever else is there stays."""
    for earlier in folder.glob(f"*/*/{NAME}"):
        earlier.unlink()
    tag = parse_metric(metric).name
    for arm in arms:
        steps, values = band(arm, alpha)
        name = re.sub(r"[^\w.+=,-]+", "_", arm.title)
        for line, numbers in zip(LINES, values, strict=True):
            path = folder / name / line
            path.mkdir(parents=True, exist_ok=True)
            with (path / NAME).open("wb") as file:
                writer = RecordWriter(file)
                writer.write(Event(wall_time=0, file_version="brain.Event:2").SerializeToString())
                for step, number in zip(steps, numbers, strict=True):
                    value = Summary.Value(tag=tag, simple_value=float(number))
                    event = Event(wall_time=0, step=int(step), summary=Summary(value=[value]))
                    writer.write(event.SerializeToString())
                writer.flush()
