"""Files that are written whole or not at all, and the names of those by which commands know each other's work."""

import json
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnlab.errors import UsageError

SUMMARY, CONFIG, CODE = "summary.json", "config.yaml", "code.json"  # in the folder of a run
TUNED = "tuned.yaml"  # in the folder of an experiment: the learning rate of each variant


def write_atomically(path: Path, data: bytes, *, key: str) -> None:
    """Write a file so that nobody ever sees half of it, not even after a power cut.

    The bytes go into a temporary file beside it, both it and the folder are flushed to disk, and a rename makes it
    the file. `key` is the setting to name if that is impossible.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")  # same folder: a rename is atomic
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        flush_folder(path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror or error}); {key} says where it goes") from error


def flush_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def expand_path(path: str | Path, *, key: str) -> Path:
    """A path as a user types it, ~ and ~name standing for home folders; refused under its key if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # no such user
        raise UsageError(f"{key} ({path}) begins with the home folder of a user who is not known here") from error


def check_writable(folder: Path, *, key: str) -> None:
    """Refuse a folder that cannot be made or written into, without making it."""
    place = folder.absolute()
    while not os.path.exists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):
        raise UsageError(f"{key} ({folder}) cannot be written: {place} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=place):  # an attempt knows more than permissions do: read-only disks, quotas
            pass
    except OSError as error:
        raise UsageError(f"{key} ({folder}) cannot be written: {error.strerror} in {place}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_atomically(path, (json.dumps(dict(content), indent=2) + "\n").encode(), key="paths.runs")


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a run; empty if it has none yet, or a damaged one."""
    try:
        content = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def lacks_lengths(summary: Mapping[str, Any], factors: Sequence[int]) -> bool:
    """Whether a finished run has not been judged at all these lengths, given as multiples of its context."""
    known = summary.get("extrapolation") or {}
    return any(str(factor) not in known for factor in factors)
