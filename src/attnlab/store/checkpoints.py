"""Checkpoints of a run as files: written whole, listed with their SHA-256, checked before they are used."""

import json
from pathlib import Path
from typing import Any

from attnlab.errors import NoUsableCheckpoint
from attnlab.store.damage import Damaged
from attnlab.store.digests import Digests, check_files, digest, parse_digests, read_checked
from attnlab.store.files import parse_json, read_file, write_atomically
from attnlab.store.names import MANIFEST, METRICS

KEEP = 2  # the newest may be the one that a dying disk spoiled
MOST_FILES = 100  # that a manifest lists


class CheckpointFolder:
    """The checkpoints of one run and their manifest: {"files": {name: {"step", "size", "sha256", "beside"}}}.

    "beside" holds the digests of metrics.csv and of the event files when the checkpoint was taken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, step: int) -> Path:
        """The checkpoint taken after a step."""
        return self.path / f"step_{step:08d}.ckpt"

    def files(self) -> list[Path]:
        """Every checkpoint that is there, whole or not."""
        return sorted(self.path.glob("*.ckpt"))

    def clear(self) -> None:
        """Remove all checkpoints, first what lists them."""
        for path in (self.path / MANIFEST, *self.files()):
            path.unlink(missing_ok=True)

    def listed(self) -> dict[str, dict[str, Any]]:
        """What the manifest says; nothing if it is missing or cannot be read."""
        try:
            return self._read()
        except OSError:
            return {}

    def _read(self) -> dict[str, dict[str, Any]]:
        """What the manifest says; an OSError where there is one that the machine does not give."""
        try:
            content = read_file(self.path / MANIFEST)
        except FileNotFoundError:
            return {}
        try:
            files = parse_json(content)["files"]
            if len(files) > MOST_FILES or not all(Path(name).name == name for name in files):
                return {}
            return {
                str(name): {
                    "step": int(entry["step"]),
                    "size": int(entry["size"]),
                    "sha256": str(entry["sha256"]),
                    "beside": parse_digests(entry.get("beside")),
                }
                for name, entry in files.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return {}

    def write(self, name: str, step: int, data: bytes, beside: Digests = {}) -> None:  # noqa: B006
        """Keep a checkpoint, list it, and drop those that are older than the newest two."""
        write_atomically(self.path / name, data, key="paths.runs")
        entry = {"step": step, **digest(data), "beside": dict(beside)}
        files = self._read() | {name: entry}  # a list that cannot be read now is not an empty one
        newest = sorted(files, key=lambda n: files[n]["step"])[-KEEP:]
        manifest = {"files": {n: files[n] for n in newest}}
        write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=1).encode(), key="paths.runs")
        for file in self.files():
            if file.name not in newest:
                file.unlink(missing_ok=True)

    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of a checkpoint, if they are those that were written, and at most so many. Raises Damaged."""
        entry = self.listed().get(name)
        if entry is None:
            raise Damaged(self.path, f"{name} is not listed in {MANIFEST}")
        return read_checked(self.path, name, entry, most)

    def newest(self, *, with_rows: bool = False, most: int | None = None) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint, and what is wrong with newer ones; refused where all there are are damaged.

        To go on from one, the rows that were written before it must be whole, too (`with_rows`).
        """
        files = self.listed()
        problems: list[str] = []
        for name in sorted(files, key=lambda n: files[n]["step"], reverse=True):
            but = ""
            try:
                self.read(name, most)
                but = f"{name} is whole, but "
                if with_rows:
                    check_files(self.path.parent, files[name]["beside"], METRICS)
                return self.path / name, problems
            except Damaged as damage:
                problems.append(but + damage.reason)
        unlisted = [path.name for path in self.files() if path.name not in files]
        # A run that was killed while writing its first checkpoint leaves one file and no manifest; more is damage.
        if not files and unlisted and (len(unlisted) > 1 or (self.path / MANIFEST).exists()):
            problems.append(f"{MANIFEST} is damaged or gone, so {', '.join(unlisted)} cannot be checked")
        if problems:
            raise NoUsableCheckpoint(
                f"{self.path} holds no usable checkpoint: {'; '.join(problems)}; overwrite=true starts the run again"
            )
        return None, []
