"""What the files of a run held when they were written, by size and SHA-256: what changed since then is noticed.

summary.json holds the digests of the files beside it under "files", and the SHA-256 of all that it says itself under
"sha256". A run from before there were such digests is read unchecked.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlab.files import CODE, CONFIG, MAPS, METRICS, SUMMARY, parse_json, read_file, write_json

Digests = Mapping[str, Mapping[str, Any]]  # {name: {"size", and "sha256" but of event files, which are only cut back}}
WHOLE = (CONFIG, CODE, MAPS)  # written at once; metrics.csv only grows, and a command that was killed leaves more
READ = (CONFIG, CODE, METRICS)  # what every report goes by


def digest(data: bytes) -> dict[str, Any]:
    """Size and SHA-256."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def digests_in(content: Any) -> dict[str, dict[str, Any]]:
    """The digests that a JSON file holds; a ValueError, KeyError, TypeError or AttributeError if they are none."""
    return {
        str(name): {"size": int(entry["size"]), "sha256": str(entry.get("sha256", ""))}
        for name, entry in (content or {}).items()
    }


def digests_of_summary(summary: Mapping[str, Any]) -> Digests:
    """Those that a finished run left; none if an older attnlab kept none, or the summary is damaged there."""
    try:
        return digests_in(summary.get("files"))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}


def damage(folder: Path, digests: Digests, *names: str) -> str | None:
    """Why one of these files does not begin with what it held when the digests were taken; None if all do, or none are
    known. What stands behind the rows of metrics.csv does not count, elsewhere it does."""
    for name in names:
        entry = digests.get(name)
        if entry is None:
            continue
        try:
            data = read_file(folder / name, None)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if len(data) < entry["size"]:
            return f"{name} has {len(data)} bytes instead of {entry['size']}"
        if digest(data[: entry["size"]] if name == METRICS else data)["sha256"] != entry["sha256"]:
            return f"{name} was changed after it was written (its SHA-256 differs)"
    return None


def damage_of_run(folder: Path, summary: Mapping[str, Any]) -> str | None:
    """Why summary.json is not what was written, or the config, the code and the rows beside it are not."""
    if is_sealed(summary) and summary["sha256"] != _seal(summary):
        return f"{SUMMARY} was changed after it was written (its SHA-256 differs)"
    digests = digests_of_summary(summary)
    if "files" in summary and METRICS not in digests:
        return f"{SUMMARY} has no digest of {METRICS}"
    return damage(folder, digests, *READ)


def is_sealed(summary: Mapping[str, Any]) -> bool:
    """Whether a summary tells its own SHA-256: those of older runs do not, and what they say is not checked."""
    return "sha256" in summary


def _seal(summary: Mapping[str, Any]) -> str:
    """The SHA-256 of all that a summary says but for this."""
    try:
        text = json.dumps({key: value for key, value in summary.items() if key != "sha256"}, sort_keys=True)
    except RecursionError:
        return ""  # nested too deeply to be one
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a run; empty if it has none yet, or one that is damaged or was changed."""
    try:
        content = parse_json(read_file(folder / SUMMARY))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict) or (is_sealed(content) and content["sha256"] != _seal(content)):
        return {}
    return content


def write_summary(folder: Path, summary: Mapping[str, Any], digests: Digests) -> None:
    """Write the summary of a run with these digests, and those of the files in WHOLE that are not among them."""
    others = [name for name in WHOLE if name not in digests and (folder / name).is_file()]
    whole = {name: digest((folder / name).read_bytes()) for name in others}
    content = json.loads(json.dumps({**summary, "files": {**whole, **digests}}))  # as it will be read
    write_json(folder / SUMMARY, {**content, "sha256": _seal(content)})
