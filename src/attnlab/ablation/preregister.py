"""A promise made before the first run: what is asked, how it is measured, and what will count as an answer.

`write` puts it into runs/<experiment>/preregistration.json with the SHA-256 of its content; `check` tells, for the
report, whether it was kept. Anyone who can write the file can write another one with another hash: note the hash
somewhere else (a commit, a message to a colleague) if somebody has to be convinced.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.ablation.reading import Run
from attnlab.errors import UsageError
from attnlab.files import write_atomically

FILE_NAME = "preregistration.json"


class Promise(NamedTuple):
    """What was said beforehand."""

    hypothesis: str  # in words
    baseline: str
    metric: str
    margin: float | None
    alpha: float
    seeds: list[int]
    family: list[str]  # the variants whose verdicts are corrected together


class Kept(NamedTuple):
    """A promise as it was found, its hash, and every point in which it was not kept."""

    promise: Promise
    sha256: str
    created: str
    broken: list[str]


def write(folder: Path | str, promise: Promise) -> str:
    """Write the promise of an experiment and return its hash.

    The same promise again changes nothing. Refused if another one is there, or if a run has started already.
    """
    folder = Path(folder)
    if (folder / FILE_NAME).exists():
        found = read(folder)
        assert found is not None
        if found.promise != promise:
            raise UsageError(
                f"preregister: {folder / FILE_NAME} promises something else ({_first_change(found.promise, promise)}); "
                "what was promised is not changed: use another experiment_name"
            )
        return found.sha256
    if started := next(folder.glob("*/seed_*/config.yaml"), None):
        raise UsageError(f"preregister must be set before the first run, but {started.parent} has started already")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    digest = _hash(promise, created)
    content = {"sha256": digest, "created": created, **promise._asdict()}
    write_atomically(folder / FILE_NAME, (json.dumps(content, indent=2) + "\n").encode(), key="paths.runs")
    return digest


def read(folder: Path | str) -> Kept | None:
    """The promise of an experiment, with nothing checked but its hash; None if there is none."""
    path = Path(folder) / FILE_NAME
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        promise = Promise(**{key: content[key] for key in Promise._fields})
        digest, created = str(content["sha256"]), str(content["created"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a preregistration ({error!r})") from error
    broken = (
        [] if _hash(promise, created) == digest else ["the file was changed after it was written: its hash is wrong"]
    )
    return Kept(promise, digest, created, broken)


def check(folder: Path | str, used: Promise, runs: Iterable[Run], labels: Sequence[str]) -> Kept | None:
    """The promise of an experiment, and in which points the report and the runs do not keep it.

    `used` is what the report goes by; `labels` are all variants that ran; None if nothing was promised.
    """
    found = read(folder)
    if found is None:
        return None
    promise, broken = found.promise, list(found.broken)
    for key in ("baseline", "metric", "margin", "alpha"):
        said, done = getattr(promise, key), getattr(used, key)
        if said != done:
            broken.append(f"{key} was promised as {said}, and is {done}")
    if set(promise.family) != set(used.family):
        broken.append(f"the family was {', '.join(promise.family)}, and is {', '.join(used.family)}")
    if beyond := sorted(set(labels) - {*promise.family, promise.baseline}):
        broken.append(f"not promised, but run: {', '.join(beyond)}")
    runs = list(runs)
    if missing := sorted(set(promise.seeds) - {run.seed for run in runs if run.status == "finished"}):
        broken.append(f"promised seeds without a finished run: {', '.join(map(str, missing))}")
    if extra := sorted({run.seed for run in runs if run.seed is not None} - set(promise.seeds)):
        broken.append(f"seeds that were not promised: {', '.join(map(str, extra))}")
    started = [str(run.summary["started"]) for run in runs if "started" in run.summary]
    if early := [when for when in started if datetime.fromisoformat(when) < datetime.fromisoformat(found.created)]:
        broken.append(f"{len(early)} runs had started before it was written ({min(early)}, {found.created})")
    return found._replace(broken=broken)


def _hash(promise: Promise, created: str) -> str:
    text = json.dumps({"created": created, **promise._asdict()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _first_change(was: Promise, wanted: Promise) -> str:
    return next(
        f"{key}: {getattr(was, key)}, not {getattr(wanted, key)}"
        for key in Promise._fields
        if getattr(was, key) != getattr(wanted, key)
    )
