"""Preregistration, before the first run: what is asked, how it is measured, which runs answer it, and what will count.

It is written with the SHA-256 of its content. A run is preregistered by its folder, whose name holds the hash of its
config, and its seed. Anyone who can write the file can write another one with another hash: note the hash somewhere
else (a commit, a message to a colleague) if somebody has to be convinced.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.errors import UsageError
from attnlab.store.digests import seal
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.files import parse_json, read_file, write_json
from attnlab.store.names import SEED
from attnlab.store.terms import is_alpha, is_margin


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
    digest = seal(content)
    write_json(path, {"sha256": digest, **content})
    return digest


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
    deviations = [] if seal(content) == digest else ["the file was changed after it was written: its hash is wrong"]
    return PreregistrationCheck(registered, digest, created, deviations)


def _check_types(registered: Preregistration) -> None:
    lists = (registered.family, registered.runs or [])
    sound = (
        all(isinstance(text, str) for text in (registered.hypothesis, registered.baseline, registered.metric))
        and is_alpha(registered.alpha)
        and (registered.margin is None or is_margin(registered.margin))
        and all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists)
        and isinstance(registered.seeds, list)
        and all(isinstance(seed, int) for seed in registered.seeds)
    )
    if not sound:
        raise TypeError("values of the wrong type")


def seeds_by_folder(names: Iterable[str]) -> dict[str, str]:
    """The seeds of each configuration, in words."""
    seeds: dict[str, list[str]] = {}
    for name in names:
        folder, _, seed = name.partition("/")
        seeds.setdefault(folder, []).append(seed.removeprefix(SEED))
    return {folder: f"seed{'s' * (len(each) > 1)} {', '.join(each)}" for folder, each in seeds.items()}


def _first_change(was: Preregistration, new: Preregistration) -> str:
    if was[:-1] != new[:-1]:
        return next(
            f"{key}: {getattr(was, key)}, not {getattr(new, key)}"
            for key in Preregistration._fields
            if getattr(was, key) != getattr(new, key)
        )
    more, less = set(new.runs or ()) - set(was.runs or ()), set(was.runs or ()) - set(new.runs or ())
    named = [*(f"not {f} ({s})" for f, s in seeds_by_folder(sorted(more)).items())]
    named += [f"also {f} ({s})" for f, s in seeds_by_folder(sorted(less)).items()]
    return f"other runs: {', '.join(named[:6])}{', ...' if len(named) > 6 else ''}"
