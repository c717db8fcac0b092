"""Preregistration, before the first run: what is asked, how it is measured, which runs answer it, and what will count.

`write` puts it into runs/<experiment>/preregistration.json with the SHA-256 of its content; `check` lists, for the
report, the deviations from it. A run is preregistered by its folder, whose name holds the hash of its config, and its
seed.
Anyone who can write the file can write another one with another hash: note the hash somewhere else (a commit, a message
to a colleague) if somebody has to be convinced.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.ablation.groups import changing, groups_of
from attnlab.ablation.reading import Run
from attnlab.errors import UsageError
from attnlab.files import parse_json, read_file, write_atomically
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.names import SEED
from attnlab.store.status import Status

NOT_STARTED = (Status.PLANNED, Status.REFUSED)


class Preregistration(NamedTuple):
    """What was fixed before the first run."""

    hypothesis: str  # in words
    baseline: str
    metric: str
    margin: float | None
    alpha: float
    seeds: list[int]
    family: list[str]  # the variants whose verdicts are corrected together
    runs: list[str] | None = None  # <variant>-<hash of the config>/seed_<n>; None: written before runs were named in it


class PreregistrationCheck(NamedTuple):
    """A preregistration as it lies on disk, its hash, and every deviation from it."""

    preregistration: Preregistration
    sha256: str
    created: str
    deviations: list[str]


def write(folder: Path | str, registered: Preregistration) -> str:
    """Write the preregistration of an experiment and return its hash.

    The same again changes nothing. Refused if another one is there, or if a run has started already.
    """
    experiment = ExperimentFolder(Path(folder))
    path = experiment.preregistration
    if path.exists():
        existing = read(folder)
        assert existing is not None
        old = existing.preregistration
        new = registered if old.runs is not None else registered._replace(runs=None)
        if old != new:
            raise UsageError(
                f"preregister: {path} holds something else ({_first_change(old, new)}), "
                "and is not changed: use another experiment_name"
            )
        return existing.sha256
    if started := next((run for run in experiment.runs() if run.config.exists()), None):
        raise UsageError(f"preregister must be set before the first run, but {started} has started already")
    content = {"created": datetime.now(UTC).isoformat(timespec="seconds"), **registered._asdict()}
    content = {"sha256": _hash(content), **content}
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode(), key="paths.runs")
    return str(content["sha256"])


def read(folder: Path | str) -> PreregistrationCheck | None:
    """The preregistration of an experiment, with nothing checked but its form and its hash; None if there is none."""
    path = ExperimentFolder(Path(folder)).preregistration
    try:
        content: dict[str, Any] = parse_json(read_file(path))
        needed = (
            key for key in Preregistration._fields if key in content or key not in Preregistration._field_defaults
        )
        registered = Preregistration(**{key: content[key] for key in needed})
        _check_types(registered)
        digest, created = str(content["sha256"]), str(content["created"])
        datetime.fromisoformat(created)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is not a preregistration ({str(error)[:200]!r})") from error
    deviations = [] if _hash(content) == digest else ["the file was changed after it was written: its hash is wrong"]
    return PreregistrationCheck(registered, digest, created, deviations)


def _check_types(registered: Preregistration) -> None:
    lists = (registered.family, registered.runs or [])
    sound = (
        all(isinstance(text, str) for text in (registered.hypothesis, registered.baseline, registered.metric))
        and all(isinstance(x, int | float) and x > 0 for x in (registered.alpha, registered.margin or 1))
        and all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists)
        and isinstance(registered.seeds, list)
        and all(isinstance(seed, int) for seed in registered.seeds)
    )
    if not sound:
        raise TypeError("values of the wrong type")


def check(
    folder: Path | str, used: Preregistration, runs: Iterable[Run], labels: Sequence[str]
) -> PreregistrationCheck | None:
    """The preregistration of an experiment, and in which points the report and the runs deviate from it.

    `used` is what the report goes by; `labels` are all variants that ran; None if nothing was preregistered.
    """
    existing = read(folder)
    if existing is None:
        return None
    registered, deviations = existing.preregistration, list(existing.deviations)
    for key in ("baseline", "metric", "margin", "alpha"):
        before, now = getattr(registered, key), getattr(used, key)
        if before != now:
            deviations.append(f"{key} was preregistered as {before}, and is {now}")
    if set(registered.family) != set(used.family):
        deviations.append(f"the family was {', '.join(registered.family)}, and is {', '.join(used.family)}")
    runs = list(runs)
    if registered.runs is not None:
        deviations += _other_runs(registered.runs, runs)
    else:
        if more := sorted(set(labels) - {*registered.family, registered.baseline}):
            deviations.append(f"not preregistered, but run: {', '.join(more)}")
        if missing := sorted(set(registered.seeds) - {run.seed for run in runs if run.status == Status.FINISHED}):
            deviations.append(f"preregistered seeds without a finished run: {', '.join(map(str, missing))}")
        if extra := sorted({run.seed for run in runs if run.seed is not None} - set(registered.seeds)):
            deviations.append(f"seeds that were not preregistered: {', '.join(map(str, extra))}")
        deviations += _several_configs({registered.baseline, *registered.family}, runs)
    started = [str(run.summary["started"]) for run in runs if "started" in run.summary]
    if early := [when for when in started if _time(when) < _time(existing.created)]:
        deviations.append(f"{len(early)} runs had started before it was written ({min(early)}, {existing.created})")
    return existing._replace(deviations=deviations)


def _time(when: str) -> datetime:
    """A time with its zone; what cannot be read counts as the beginning of all time."""
    try:
        time = datetime.fromisoformat(when)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _other_runs(registered: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Runs that were not preregistered, by their configs, and preregistered ones that have no result."""
    started = [run for run in runs if run.status not in NOT_STARTED]
    others = [run for run in started if run.name not in registered]
    settings = {group.folder: group.settings for group in groups_of(runs)}
    deviations = []
    for folder, seeds in _by_folder(run.name for run in others).items():
        alike = next((run.variant for run in others if run.group == folder), "")
        meant = [name for name in _by_folder(registered) if name.rpartition("-")[0] == alike]
        if folder in meant:
            deviations.append(f"seeds that were not preregistered: {folder} ({seeds})")
        elif meant:
            apart = [
                f"{key} {settings[folder].get(key)}, not {settings[name].get(key)}"
                for name in meant[:1]
                if name in settings and folder in settings
                for keys in changing([settings[name], settings[folder]])
                for key in keys
            ]
            what = f": {'; '.join(apart)}" if apart else ""
            deviations.append(
                f"run with another config than {', '.join(meant)}, which was preregistered: {folder} ({seeds}){what}"
            )
        else:
            deviations.append(f"not preregistered, but run: {folder} ({seeds})")
    became = {run.name: run.status for run in runs}
    lost = [name for name in registered if became.get(name) != "finished"]
    for folder, seeds in _by_folder(lost).items():
        fates = dict.fromkeys(became.get(name, "not there") for name in lost if name.startswith(f"{folder}/"))
        deviations.append(f"preregistered, and without a result: {folder} ({seeds}; {', '.join(fates)})")
    return deviations


def _several_configs(names: Iterable[str], runs: Sequence[Run]) -> list[str]:
    """Variants that ran in more than one config, where the preregistration does not tell which one was meant."""
    folders = dict.fromkeys((run.variant, run.group) for run in runs if run.status not in NOT_STARTED)
    by_name = {name: [folder for variant, folder in folders if variant == name] for name in sorted(names)}
    return [
        f"{name} ran with {len(each)} configs ({', '.join(each)}), and the preregistration names none of them"
        for name, each in by_name.items()
        if len(each) > 1
    ]


def _by_folder(names: Iterable[str]) -> dict[str, str]:
    """The seeds of each configuration, in words."""
    seeds: dict[str, list[str]] = {}
    for name in names:
        folder, _, seed = name.partition("/")
        seeds.setdefault(folder, []).append(seed.removeprefix(SEED))
    return {folder: f"seed{'s' * (len(each) > 1)} {', '.join(each)}" for folder, each in seeds.items()}


def _hash(content: Mapping[str, Any]) -> str:
    """The SHA-256 of all that a preregistration holds, but for the hash itself."""
    text = json.dumps({key: value for key, value in content.items() if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _first_change(was: Preregistration, new: Preregistration) -> str:
    if was[:-1] != new[:-1]:
        return next(
            f"{key}: {getattr(was, key)}, not {getattr(new, key)}"
            for key in Preregistration._fields
            if getattr(was, key) != getattr(new, key)
        )
    more, less = set(new.runs or ()) - set(was.runs or ()), set(was.runs or ()) - set(new.runs or ())
    named = [*(f"not {f} ({s})" for f, s in _by_folder(sorted(more)).items())]
    named += [f"also {f} ({s})" for f, s in _by_folder(sorted(less)).items()]
    return f"other runs: {', '.join(named[:6])}{', ...' if len(named) > 6 else ''}"
