"""Checkpoints of a run as files: written whole, listed with their SHA-256, checked before they are used."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlab.errors import NoUsableCheckpoint
from attnlab.store.damage import Damaged, one_line
from attnlab.store.digests import Digests, check_files, digest, digest_of, parse_digests, read_checked
from attnlab.store.files import parse_json, read_file, write_atomically
from attnlab.store.names import MANIFEST, METRICS

KEEP = 2  # the newest may be the one that a dying disk spoiled
MOST_FILES = 100  # that a manifest lists
MOST_PARTS = 10_000  # of a checkpoint that several processes wrote
REST = "rest.pt"  # what is no tensor, in a checkpoint in parts
FOLDER = ".parts"  # how the name of such a checkpoint ends


def shard_name(step: int) -> str:
    """The folder of a checkpoint in parts, taken after a step."""
    return f"step_{step:08d}{FOLDER}"


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint is a folder, to which each process has written its parts."""
    return path.suffix == FOLDER


class CheckpointFolder:
    """The checkpoints of one run and their manifest: {"files": {name: {"step", "size", "sha256", "beside"}}}.

    A checkpoint in parts is a folder; its "size" is that of all its files, its "sha256" that of their list in the form
    of `sha256sum`, and "parts" holds the digest of each. A checkpoint counts once the manifest, written last, lists it.
    "beside" holds the digests of metrics.csv and of the event files when the checkpoint was taken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, step: int) -> Path:
        """The checkpoint taken after a step."""
        return self.path / f"step_{step:08d}.ckpt"

    def files(self) -> list[Path]:
        """Every checkpoint that is there, whole or not."""
        return sorted([*self.path.glob("*.ckpt"), *self.path.glob(f"*{FOLDER}")])

    def clear(self) -> None:
        """Remove all checkpoints, first what lists them."""
        for path in (self.path / MANIFEST, *self.files()):
            _remove(path)

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
                    **({"parts": _parse_parts(entry["parts"])} if str(name).endswith(FOLDER) else {}),
                }
                for name, entry in files.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return {}

    def write(self, name: str, step: int, data: bytes, beside: Digests = {}) -> None:  # noqa: B006
        """Keep a checkpoint, list it, and drop those that are older than the newest two."""
        write_atomically(self.path / name, data, key="paths.runs")
        self._list(name, {"step": step, **digest(data), "beside": dict(beside)})

    def commit(self, name: str, step: int, parts: Digests, rest: bytes, beside: Digests) -> None:
        """Keep a checkpoint whose parts stand in its folder: add the rest, and list it as `write` does."""
        write_atomically(self.path / name / REST, rest, key="paths.runs")
        parts = {**parts, REST: digest(rest)}
        size, sha256 = sum(part["size"] for part in parts.values()), digest(_listing(parts))["sha256"]
        self._list(name, {"step": step, "size": size, "sha256": sha256, "parts": parts, "beside": dict(beside)})

    def _list(self, name: str, entry: Mapping[str, Any]) -> None:
        files = self._read() | {name: entry}  # a list that cannot be read now is not an empty one
        newest = sorted(files, key=lambda n: files[n]["step"])[-KEEP:]
        manifest = {"files": {n: files[n] for n in newest}}
        write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=1).encode(), key="paths.runs")
        for file in self.files():
            if file.name not in newest:
                _remove(file)

    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of a checkpoint, if they are those that were written, and at most so many. Raises Damaged."""
        entry = self.listed().get(name)
        if entry is None:
            raise Damaged(self.path, f"{name} is not listed in {MANIFEST}")
        return read_checked(self.path, name, entry, most)

    def read_part(self, name: str, part: str) -> bytes:
        """The bytes of one file of a checkpoint in parts, if they are those that were written. Raises Damaged."""
        entry = self.listed().get(name)
        if entry is None or part not in entry.get("parts", {}):
            raise Damaged(self.path, f"{name}/{part} is not listed in {MANIFEST}")
        return read_checked(self.path / name, part, entry["parts"][part])

    def check(self, name: str, most: int | None = None) -> None:
        """Raises Damaged if a checkpoint, a file or a folder of parts, is not what was written or holds more bytes."""
        if not is_sharded(Path(name)):
            self.read(name, most)
            return
        entry = self.listed().get(name)
        if entry is None:
            raise Damaged(self.path, f"{name} is not listed in {MANIFEST}")
        if digest(_listing(entry["parts"]))["sha256"] != entry["sha256"]:
            raise Damaged(self.path, f"{MANIFEST} was changed: what it says of {name} contradicts itself")
        if most is not None and entry["size"] > most:
            raise Damaged(self.path, f"{name} is larger than {most:,} bytes")
        for part, digests in entry["parts"].items():
            path = self.path / name / part
            try:
                there = digest_of(path)
            except OSError as error:
                raise Damaged(self.path, f"{name}/{part} cannot be read ({one_line(error)})") from error
            if there != digests:
                raise Damaged(self.path, f"{name}/{part} is not what was written (its size or SHA-256 differs)")
        if strange := sorted({file.name for file in (self.path / name).iterdir()} - entry["parts"].keys()):
            raise Damaged(self.path, f"{name} holds {strange[0]}, which {MANIFEST} does not list")

    def newest(self, *, with_rows: bool = False, most: int | None = None) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint, and what is wrong with newer ones; refused where all there are are damaged.

        To go on from one, the rows that were written before it must be whole, too (`with_rows`).
        """
        files = self.listed()
        problems: list[str] = []
        for name in sorted(files, key=lambda n: files[n]["step"], reverse=True):
            but = ""
            try:
                self.check(name, most)
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


def _listing(parts: Digests) -> bytes:
    """Files and their SHA-256, one a line."""
    return "".join(f"{part['sha256']}  {name}\n" for name, part in sorted(parts.items())).encode()


def _parse_parts(content: Any) -> dict[str, dict[str, Any]]:
    parts = parse_digests(content)
    if len(parts) > MOST_PARTS or not all(Path(name).name == name for name in parts):
        raise ValueError("no parts of a checkpoint")
    return parts


def _remove(path: Path) -> None:
    """Remove a checkpoint, of either kind."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
