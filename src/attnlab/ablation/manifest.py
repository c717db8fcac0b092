"""The list of every run that was ever planned in an experiment, and what became of it: nothing is dropped silently.

runs/<experiment>/manifest.json holds {"experiment", "command", "baseline", "design", "runs"}; each of its runs is
{"folder", "variant", "label", "overrides", "levels", "seed", "status", "reason", "log"}, with folders and logs relative
to that of the experiment. The numbers of a finished run stand in the summary.json of its folder. `folder` is null for a
combination that was refused.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnlab.files import parse_json, read_file, write_json, writing

FILE_NAME, LOCK = "manifest.json", ".manifest.lock"
STATUSES = ("planned", "running", "finished", "failed", "diverged", "refused")
Entry = dict[str, Any]


class Manifest:
    """The manifest of one experiment. Several commands may write it at once: each changes only entries of its own."""

    def __init__(self, experiment: Path) -> None:
        self.experiment, self.path = experiment, experiment / FILE_NAME

    def read(self) -> dict[str, Any]:
        """What the file says; an empty list of runs if it is missing or damaged."""
        try:
            content = parse_json(read_file(self.path))
        except (OSError, ValueError):
            content = {}
        if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
            return {"experiment": self.experiment.name, "runs": []}
        return {**content, "runs": [entry for entry in content["runs"] if _is_entry(entry)]}

    def plan(self, entries: Sequence[Entry], about: Mapping[str, Any]) -> None:
        """List what is planned; what other commands have planned stays."""
        with self._owned():
            content = self.read()
            known = {_key(entry): entry for entry in content["runs"]}
            known |= {_key(entry): entry for entry in entries}
            head = {key: value for key, value in content.items() if key != "runs"}
            write_json(self.path, {**head, **about, "runs": list(known.values())})

    def note(self, entry: Entry) -> None:
        """Say what has become of one entry."""
        assert entry["status"] in STATUSES
        self.plan([entry], {})

    @contextmanager
    def _owned(self) -> Iterator[None]:
        with writing(self.path, key="paths.runs"):
            self.experiment.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.experiment / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _is_entry(entry: Any) -> bool:
    """Whether an entry of a file is one: what is none tells of no run, and is dropped."""
    if not isinstance(entry, dict):
        return False
    words = entry.get("overrides", [])
    return isinstance(words, list) and all(isinstance(word, str) for word in words)


def _key(entry: Mapping[str, Any]) -> str:
    """What makes an entry this one: its folder, or its words if it has none."""
    return str(entry.get("folder") or " ".join(entry.get("overrides", [])))
