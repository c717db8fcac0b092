"""What the files of a run held when they were written, by size and SHA-256: what changed since then is noticed.

summary.json holds the digests of the files beside it under "files", and the SHA-256 of all that it says itself under
"sha256". A run from before there were such digests is read unchecked.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlab.store.damage import Damaged, one_line
from attnlab.store.files import open_file, read_file
from attnlab.store.moved import with_first_keys
from attnlab.store.names import METRICS

Digests = Mapping[str, Mapping[str, Any]]  # {name: {"size", and "sha256" but of event files, which are only cut back}}


def digest(data: bytes) -> dict[str, Any]:
    """Size and SHA-256."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def digest_of(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file of any size, which is flushed to disk."""
    with open_file(path) as file:
        os.fsync(file.fileno())
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def parse_digests(content: Any) -> dict[str, dict[str, Any]]:
    """The digests that a JSON file holds, none for null; a ValueError if they are no digests."""
    try:
        return {
            str(name): {"size": int(entry["size"]), "sha256": str(entry.get("sha256", ""))}
            for name, entry in (content or {}).items()
        }
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("no digests") from error


def digests_in(summary: Mapping[str, Any]) -> Digests:
    """Those that a finished run left; none if an older attnlab kept none, or the summary is damaged there."""
    try:
        return parse_digests(summary.get("files"))
    except ValueError:
        return {}


def read_checked(folder: Path, name: str, entry: Mapping[str, Any], most: int | None = None) -> bytes:
    """The bytes of which a digest was taken, if the file still holds them and at most so many. Raises Damaged.

    What stands behind the rows of metrics.csv does not count, elsewhere it does.
    """
    try:
        data = read_file(folder / name, most)
    except (OSError, ValueError) as error:
        raise Damaged(folder, f"{name} cannot be read ({one_line(error)})") from error
    counted = data[: entry["size"]] if name == METRICS else data
    if len(counted) != entry["size"]:
        raise Damaged(folder, f"{name} has {len(data)} bytes instead of {entry['size']}")
    if digest(counted)["sha256"] != entry["sha256"]:
        raise Damaged(folder, f"{name} was changed after it was written (its SHA-256 differs)")
    return counted


def check_files(folder: Path, digests: Digests, *names: str) -> None:
    """Raises Damaged if one of these files is not what it was when the digests were taken; without one it passes."""
    for name in names:
        if name in digests:
            read_checked(folder, name, digests[name])


def seal(content: Mapping[str, Any]) -> str:
    """The SHA-256 of all that a file says but for this."""
    try:
        first = with_first_keys({key: value for key, value in content.items() if key != "sha256"})
        text = json.dumps(first, sort_keys=True)
    except RecursionError:
        return ""  # nested too deeply to be one
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_sealed(summary: Mapping[str, Any]) -> bool:
    """Whether a summary tells its own SHA-256: those of older runs do not, and what they say is not checked."""
    return "sha256" in summary


def was_changed(summary: Mapping[str, Any]) -> bool:
    """Whether a summary that tells its SHA-256 says something else than when it was written."""
    return is_sealed(summary) and summary["sha256"] != seal(summary)
