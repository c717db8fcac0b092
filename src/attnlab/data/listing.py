"""From what data.path names to files of text, in an order that says nothing of the disk: sorted by name."""

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from attnlab.data.file_streams import Stamp
from attnlab.errors import UsageError

COMPRESSED = (".gz", ".zst")
KINDS = (".txt", ".jsonl", ".parquet", ".arrow", *(f"{kind}{by}" for kind in (".txt", ".jsonl") for by in COMPRESSED))
MAGIC, RECURSIVE = set("*?["), "**"
NOWHERE = Stamp(0, 0, 0)


class TextFile(NamedTuple):
    """A file to be read; `kind` is its suffix, .txt where it is another one than those of KINDS."""

    path: str
    kind: str
    stamp: Stamp

    @property
    def is_text(self) -> bool:
        """Whether the whole file is one document."""
        return self.kind.startswith(".txt")


def kind_of(path: str, kinds: Sequence[str] = KINDS) -> str | None:
    """Which of the kinds a name says that a file is."""
    name = os.path.basename(path).lower()
    return next((kind for kind in sorted(kinds, key=len, reverse=True) if name.endswith(kind)), None)


def list_files(path: str | Sequence[str], *, key: str = "data.path", kinds: Sequence[str] = KINDS) -> list[TextFile]:
    """The files of a file, a folder, a glob, or a list of these; each once, in the order of the list and their names.

    Folders are walked, links to folders within them are not followed. In folders and globs, hidden files, empty ones
    and those of other kinds are left out, a link to a file that is not there is not; a file that is named itself may
    have any suffix. Raises UsageError, also where a folder cannot be read.
    """
    entries = [path] if isinstance(path, str) else list(path)
    files = [file for entry in entries for file in _files(entry, key, kinds)]
    unique: dict[str, TextFile] = {}
    for file in files:
        unique.setdefault(os.path.realpath(file.path), file)
    return list(unique.values())


def _files(entry: str, key: str, kinds: Sequence[str]) -> Iterator[TextFile]:
    source = f"{key} ({entry})"
    if MAGIC & set(entry) and not os.path.lexists(entry):
        names = sorted(_matches(entry))
        if not names:
            raise UsageError(f"{source} matches nothing (looked in {Path.cwd()})")
        inside = [name for name in names if not os.path.isdir(name)]
        for folder in (name for name in names if os.path.isdir(name) and RECURSIVE not in Path(entry).parts):
            inside += _walk(folder)
    elif os.path.isdir(entry):
        inside = _walk(entry)
    else:
        about = _about(entry, source)
        yield TextFile(entry, kind_of(entry, kinds) or kinds[0], about)
        return
    readable = [
        TextFile(name, kind, stamp)
        for name in sorted(inside)
        if (kind := kind_of(name, kinds)) and (stamp := _stamp(name)) is not None
    ]
    if not readable:
        raise UsageError(f"{source} holds no file to read: it must hold {', '.join(kinds)}, and they may not be empty")
    yield from readable


def _stamp(name: str) -> Stamp | None:
    """What a file in a folder is: NOWHERE for a link to nothing, which reading it will name; None for an empty one and
    for what is no file."""
    try:
        about = os.stat(name)
    except OSError:
        return NOWHERE if os.path.islink(name) else None
    return Stamp.of(about) if stat.S_ISREG(about.st_mode) and about.st_size else None


def _matches(pattern: str) -> list[str]:
    """What a glob names. Python's own follows links at a `**`: two that lead back would name 2^40 files."""
    parts = Path(pattern).parts
    if RECURSIVE not in parts:
        return glob.glob(pattern)
    at = parts.index(RECURSIVE)
    above, rest = os.path.join("", *parts[:at]), os.path.join("", *parts[at + 1 :]) or "*"
    homes = (home for folder in glob.glob(above or os.curdir) for home, _ in _folders(folder))
    named = (home if above else os.path.relpath(home).removeprefix(os.curdir) for home in homes)
    return [name for home in named for name in _matches(os.path.join(glob.escape(home), rest))]


def _walk(folder: str) -> list[str]:
    return [os.path.join(home, name) for home, names in _folders(folder) for name in names if not name.startswith(".")]


def _folders(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Every folder from this one on, and the names of the files in it; hidden ones and links are not entered."""
    for home, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield home, names


def _refuse(error: OSError) -> None:
    if not isinstance(error, NotADirectoryError):  # a glob names files, too
        raise UsageError(f"the folder {error.filename} cannot be read: {error.strerror}") from error


def _about(path: str, source: str) -> Stamp:
    """What a file is that was named itself, or one line that says why there is none."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{source} is not a regular file")
    try:
        with open(path, "rb") as file:
            return Stamp.of(os.fstat(file.fileno()))
    except FileNotFoundError as error:
        raise UsageError(f"{source} does not exist (looked in {Path.cwd()})") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{source} cannot be read: {getattr(error, 'strerror', None) or error}") from error
