"""Trackers: loggers that show runs elsewhere, such as W&B or MLflow, fed from what a run keeps in its own folder.

A tracker gets a step when a checkpoint holds it, and reads it back from metrics.csv and the event files. So a run that
was killed goes on in its trackers where its checkpoint does, and each number stands there once. What a tracker has got
is noted in trackers.json. A tracker that fails says so once and is left alone; the run goes on.
"""

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers.logger import Logger
from tensorboard.compat.proto.event_pb2 import Event

from attnlab.build import Factory, construct, plan_group
from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError
from attnlab.inspection.records import HEADS, PLUGIN, decode
from attnlab.store.files import named, parse_json, read_file, write_json
from attnlab.store.locks import exclusive
from attnlab.store.names import METRICS
from attnlab.store.run_folder import RunFolder
from attnlab.training.notes import log
from attnlab.training.recorders.recorder import Recorder
from attnlab.training.recorders.tensorboard import TensorBoardRecorder

FIELD = re.compile(r"\{(\w+)\}")
FIELDS = ("id", "given_id", "name", "variant", "experiment", "seed", "hash", "folder")
EXTRAS = {"text": "texts", "image": "pictures", "map": "maps"}  # what a recorder may be unable to hold


class Tracker(Recorder):
    """A logger made for Lightning as a recorder: it holds settings and numbers. A subclass may hold more.

    Its maker sets `logger`. What is handed over between two calls of `save` is of one step.
    """

    logger: Logger

    def config(self, settings: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(dict(settings))

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(dict(numbers), step)

    def save(self) -> None:
        self.logger.save()

    def close(self, status: str = "success") -> None:
        self.logger.save()
        self.logger.finalize(status)

    def given_id(self) -> str | None:
        """What the tracker itself calls the run."""
        version = self.logger.version
        return None if version is None else str(version)

    def last_step(self) -> int | None:
        """The last step that the tracker is sure to hold, -1 if none; None where it does not tell."""
        return None


def chosen_loggers(config: RunConfig) -> dict[str, Factory]:
    """What makes each logger that logger= names; refused if its package is not installed, or a placeholder unknown."""
    factories = plan_group(config, "logger", Logger | Tracker | TensorBoardRecorder)
    for name, factory in factories.items():
        if factory.target is TensorBoardRecorder and factory.settings:
            raise UsageError(f"{factory.key}.{next(iter(factory.settings))} is not an option: {factory.key} has none")
        package = getattr(factory.target, "package", None)
        if package is not None and find_spec(package) is None:
            raise UsageError(f"logger={name} needs {package}, which is not installed: pip install 'attnlab[{name}]'")
        _fill(factory.settings, dict.fromkeys(FIELDS, ""), factory.key)
    return factories


class Notes:
    """trackers.json: of each tracker the id it gave the run and the last step it got; and how often the run began."""

    def __init__(self, folder: RunFolder) -> None:
        self.path = folder.trackers
        try:
            content = parse_json(read_file(self.path))
        except (OSError, ValueError):
            content = None
        self.content: dict[str, Any] = content if isinstance(content, dict) else {}

    @property
    def attempt(self) -> int:
        """How often the run was started anew with overwrite=true."""
        attempt = self.content.get("attempt", 0)
        return attempt if isinstance(attempt, int) else 0

    def of(self, name: str) -> dict[str, Any]:
        """What is noted of one tracker."""
        trackers = self.content.setdefault("trackers", {})
        note: dict[str, Any] = trackers.setdefault(name, {})
        return note

    def write(self) -> None:
        write_json(self.path, self.content)


class TrackedStep(NamedTuple):
    """All that was recorded at one step."""

    scalars: dict[str, float]
    texts: dict[str, str]
    images: dict[str, bytes]
    maps: list[tuple[bytes, bytes]]  # as in the event file

    def hand_to(self, tracker: Recorder, step: int) -> None:
        """Pass everything on, as one piece."""
        if self.scalars:
            tracker.scalars(self.scalars, step)
        for tag, text in self.texts.items():
            tracker.text(tag, text, step)
        for tag, png in self.images.items():
            tracker.image(tag, png, step)
        if type(tracker).map is not Recorder.map:
            for header, numbers in self.maps:
                tracker.map(decode(header, numbers))
        tracker.save()


class Trackers(Recorder):
    """The trackers of a run. They get what stands in its folder each time `commit` is called.

    `factories` make them, by name; `fields` fill the {placeholders} of their settings.
    """

    def __init__(
        self,
        folder: RunFolder,
        factories: Mapping[str, Factory | Logger | Tracker],
        fields: Mapping[str, Any],
        settings: Mapping[str, Any],
        lock: Path,
    ) -> None:
        self.folder, self.notes = folder, Notes(folder)
        self._read: dict[str, int] = {}  # bytes of each file
        self.trackers: dict[str, Tracker] = {}
        self.last: dict[str, int] = {}
        for name, factory in factories.items():
            self._start(name, factory, fields, settings, lock)

    def _start(
        self,
        name: str,
        factory: Factory | Logger | Tracker,
        fields: Mapping[str, Any],
        settings: Mapping[str, Any],
        lock: Path,
    ) -> None:
        note = self.notes.of(name)
        is_new = not note
        try:
            with exclusive(lock):  # the first one makes the tables of a database
                tracker = _build(name, factory, {**fields, "given_id": note.get("id")})
                note |= {"id": tracker.given_id(), "hash": fields["id"]}
            held = tracker.last_step()
            self.last[name] = note.get("step", -1) if held is None else held
            if not note.get("config") or type(tracker) is not Tracker:  # one of ours takes the same settings again
                tracker.config(settings)
            note |= {"config": True, "step": self.last[name]}
        except UsageError:
            raise
        except Exception as error:  # whatever another package does must not stop a run
            _report_failure(name, error)
            return
        self.notes.write()
        self.trackers[name] = tracker
        kind = type(tracker)
        cannot = [what for method, what in EXTRAS.items() if getattr(kind, method) is getattr(Recorder, method)]
        if cannot and is_new:
            log(f"logger {name} takes no {' or '.join(cannot)}: these are in the event files")

    def commit(self) -> None:
        for step, content in sorted(self._steps().items()) if self.trackers else ():
            for name in list(self.trackers):
                if step > self.last[name]:
                    self._hand_over(name, step, content)

    def _hand_over(self, name: str, step: int, content: TrackedStep) -> None:
        self.last[name] = self.notes.of(name)["step"] = step
        self.notes.write()  # before: where a tracker cannot tell, a step that was cut off is missing rather than twice
        self._try(name, lambda tracker: content.hand_to(tracker, step))

    def close(self, status: str = "success") -> None:
        for name in list(self.trackers):
            self._try(name, lambda tracker: tracker.close(status))
        self.trackers = {}

    def _try(self, name: str, act: Callable[[Tracker], None]) -> None:
        try:
            act(self.trackers[name])
        except Exception as error:  # as above
            del self.trackers[name]
            _report_failure(name, error)

    def _steps(self) -> dict[int, TrackedStep]:
        """What was recorded since the last call, by step."""
        steps: dict[int, TrackedStep] = {}

        def at(step: int) -> TrackedStep:
            return steps.setdefault(step, TrackedStep({}, {}, {}, []))

        rows = self.folder.read_metrics()
        for row in rows[self._read.get(METRICS, 0) :]:
            at(row.step).scalars[row.metric] = row.value
        self._read[METRICS] = len(rows)
        for path in self.folder.event_files():
            for event in self._events(path):
                for value in event.summary.value:
                    plugin = value.metadata.plugin_data.plugin_name
                    if plugin == "text":
                        tag = value.tag.removesuffix("/text_summary")
                        at(event.step).texts[tag] = value.tensor.string_val[0].decode()
                    elif plugin == PLUGIN and not value.tag.startswith(HEADS):
                        header, numbers = value.tensor.string_val
                        at(event.step).maps.append((header, numbers))
                    elif value.HasField("image"):
                        at(event.step).images[value.tag] = value.image.encoded_image_string
        return steps

    def _events(self, path: Path) -> Iterator[Event]:
        """The events that were added to a file since the last call: each stands between its length and a checksum."""
        with named(path), path.open("rb") as file:
            file.seek(self._read.get(path.name, 0))
            while len(head := file.read(12)) == 12:
                (length,) = struct.unpack("<Q4x", head)
                yield Event.FromString(file.read(length))
                file.seek(4, 1)
                self._read[path.name] = file.tell()


def _build(name: str, factory: Factory | Logger | Tracker, fields: Mapping[str, Any]) -> Tracker:
    logger: Any = factory
    if isinstance(factory, Factory):
        settings = _fill(factory.settings, fields, factory.key)
        try:
            logger = construct(type(factory)(factory.target, settings, factory.key))
        except ModuleNotFoundError as error:
            raise UsageError(
                f"logger={name} needs a package that is not installed ({error}): pip install 'attnlab[{name}]'"
            ) from error
    if isinstance(logger, Tracker):
        return logger
    tracker = Tracker()
    tracker.logger = logger
    return tracker


def _fill(node: Any, fields: Mapping[str, Any], key: str) -> Any:
    """Settings with what is known of the run in place of {placeholders}."""
    if isinstance(node, Mapping):
        return {name: _fill(value, fields, f"{key}.{name}") for name, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, fields, f"{key}[{i}]") for i, value in enumerate(node)]
    if isinstance(node, Factory):
        return type(node)(node.target, _fill(node.settings, fields, node.key), node.key)
    if not isinstance(node, str):
        return node
    for field in FIELD.findall(node):
        if field not in fields:
            raise UsageError(f"{key} ({node}) holds {{{field}}}: there are {', '.join(f'{{{f}}}' for f in fields)}")
    whole = FIELD.fullmatch(node)
    return fields[whole[1]] if whole else FIELD.sub(lambda match: str(fields[match[1]]), node)


def _report_failure(name: str, error: Exception) -> None:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    log(f"warning: logger {name} failed ({reason}); the run goes on without it, and {METRICS} has every number")
