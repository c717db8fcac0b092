"""The list of every run that was ever planned in an experiment, and what became of it: nothing is dropped silently.

runs/<experiment>/manifest.json holds {"experiment", "command", "baseline", "design", "runs"}; each of its runs is
{"folder", "variant", "label", "overrides", "levels", "seed", "status", "reason", "log"}, with folders and logs relative
to that of the experiment. The numbers of a finished run stand in the summary.json of its folder. `folder` is null for a
combination that was refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from attnlab.errors import UsageError
from attnlab.store.files import parse_json, read_file, tidy, write_json, writing
from attnlab.store.locks import exclusive, lock_of

LOOKS = "looks_taken"  # every time that a report was asked for other runs than before
TOUCHES = "test_part_touched"  # every time that runs were judged by it which had not been judged by it before
METRICS_LOOKED_AT = "metrics_looked_at"  # on which verdicts were asked for
Entry = dict[str, Any]


class Manifest:
    """The manifest of one experiment. Several commands may write it at once: each changes only entries of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """What the file says; an empty list of runs if it is missing or damaged."""
        content = self._content() or self._empty()
        return {**content, "runs": [entry for entry in content["runs"] if _is_entry(entry)]}

    def _empty(self) -> dict[str, Any]:
        return {"experiment": self.path.parent.name, "runs": []}

    def _content(self) -> dict[str, Any] | None:
        with suppress(OSError):
            return self._parsed()
        return None

    def _parsed(self) -> dict[str, Any] | None:
        """What the file says; None if it is missing or damaged, an OSError if the disk does not give it."""
        try:
            content = parse_json(read_file(self.path))
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) and isinstance(content.get("runs"), list) else None

    def _to_change(self) -> dict[str, Any]:
        """What is written again with a change. Raises UsageError where that would lose what is there."""
        content = self._content()
        if content is None and self.path.exists():
            raise UsageError(f"{self.path} is damaged")
        return content or self._empty()

    def plan(self, entries: Sequence[Entry], about: Mapping[str, Any]) -> None:
        """List what is planned; what other commands have planned stays, but for a damaged file, which is made anew."""
        with self._owned(), writing(self.path, key="paths.runs"):
            content = self._parsed() or self._empty()
            by_key = {_key(entry): entry for entry in content["runs"] if _is_entry(entry)}
            by_key |= {_key(entry): entry for entry in entries}
            head = {key: value for key, value in content.items() if key != "runs"}
            write_json(self.path, {**head, **about, "runs": list(by_key.values())})

    def note(self, entry: Entry) -> None:
        """Say what has become of one entry."""
        self.plan([entry], {})

    def looks(self) -> list[Entry]:
        """What can be read of the looks at the experiment."""
        return _sound(self.read(), LOOKS)

    def count_look(self, look: Entry) -> list[Entry]:
        """Add a look at the experiment, told by its "set", unless it is listed; returns all.

        Raises UsageError if it cannot be written, or if what is there would be lost.
        """
        with self._owned():
            content = self._to_change()
            looks = _sound(content, LOOKS)
            if all(entry["set"] != look["set"] for entry in looks):
                looks.append(look)
                write_json(self.path, {**content, LOOKS: looks})
        return looks

    def touches(self) -> list[Entry]:
        """What can be read of how often the test part was touched: when, and by which runs."""
        return _sound(self.read(), TOUCHES)

    def count_touch(self, runs: Sequence[str], at: str) -> list[Entry]:
        """Write down that these runs are judged by the test part, unless all of them were before; returns all touches.

        Raises UsageError as `count_look` does.
        """
        with self._owned():
            content = self._to_change()
            touches = _sound(content, TOUCHES)
            if {*runs} - {str(run) for touch in touches for run in touch["runs"]}:
                touches.append({"at": at, "runs": sorted(runs)})
                write_json(self.path, {**content, TOUCHES: touches})
        return touches

    def metrics(self) -> list[str]:
        """What can be read of the metrics that were looked at."""
        return _sound(self.read(), METRICS_LOOKED_AT)

    def count_metric(self, metric: str) -> list[str]:
        """Add a metric to those that were looked at; returns all. Raises UsageError as `count_look` does."""
        with self._owned():
            content = self._to_change()
            names = _sound(content, METRICS_LOOKED_AT)
            if metric not in names:
                names.append(metric)
                write_json(self.path, {**content, METRICS_LOOKED_AT: names})
        return names

    @contextmanager
    def _owned(self) -> Iterator[None]:
        with ExitStack() as stack:
            with writing(self.path, key="paths.runs"):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive(lock_of(self.path)))
                tidy(self.path.parent, self.path.name)
            yield


def _is_entry(entry: Any) -> bool:
    """Whether an entry of a file is one: what is none tells of no run, and is dropped."""
    if not isinstance(entry, dict):
        return False
    overrides = entry.get("overrides", [])
    return isinstance(overrides, list) and all(isinstance(word, str) for word in overrides)


# What an entry of each list besides the runs must be, to be read.
SOUND: dict[str, Callable[[Any], bool]] = {
    LOOKS: lambda look: isinstance(look, dict) and isinstance(look.get("set"), str),
    TOUCHES: lambda touch: isinstance(touch, dict) and isinstance(touch.get("runs"), list),
    METRICS_LOOKED_AT: lambda name: isinstance(name, str),
}


def _sound(content: Mapping[str, Any], key: str) -> list[Any]:
    """The entries of a list that can be read."""
    listed = content.get(key)
    return [each for each in listed if SOUND[key](each)] if isinstance(listed, list) else []


def _key(entry: Mapping[str, Any]) -> str:
    """What makes an entry this one: its folder, or its words if it has none."""
    return str(entry.get("folder") or " ".join(entry.get("overrides", [])))
