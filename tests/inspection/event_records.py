"""The records of a run, as TensorBoard reads them."""

import json
from collections.abc import Iterator
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from attnlab.inspection.records import HEADS, PLUGIN, Record, decode
from attnlab.store.run_folder import RunFolder


def read_records(folder: Path | str) -> Iterator[Record]:
    """Every map record in the event files of a run's folder, in the order they were written.

    A run that was killed and resumed may hold a step twice, with equal numbers.
    """
    for path in RunFolder(Path(folder)).event_files():
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == PLUGIN and not value.tag.startswith(HEADS):
                    yield decode(*value.tensor.string_val)


def read_heads(folder: Path | str) -> dict[str, list[tuple[int, float]]]:
    """The numbers of heads in the event files of a run's folder, step by step, by the tags that metrics.csv has."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for path in RunFolder(Path(folder)).event_files():
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag.startswith(HEADS):
                    for name, number in json.loads(value.tensor.string_val[0]).items():
                        tag = f"{value.tag.removeprefix(HEADS)}/{name}"
                        curves.setdefault(tag, []).append((event.step, number))
    return curves
