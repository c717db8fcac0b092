"""A text in files, looked through once before it is used: its digests, how much it holds, and what is wrong with it.

What came of it is kept under what the files were (path, size, time of the last change to the nanosecond, inode): as
long as they are that, they are not read again.
"""

import codecs
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.data.download import sha256_of
from attnlab.data.file_streams import AT_ONCE, BadFile, Changed, open_stream
from attnlab.data.listing import TextFile
from attnlab.data.parallel import each
from attnlab.data.planning import ENDLESS, before, stretches_of
from attnlab.data.stretches import TABLES, Bad, Split, Stretch, read
from attnlab.errors import UsageError
from attnlab.store.files import parse_json, read_file, write_atomically, writing
from attnlab.store.locks import exclusive, lock_of

FORM = 2  # of the records; another one makes them anew
FEW = 5  # examples of what is wrong
HIGHEST = 2**64
UNREAD = "cannot be read"  # says nothing of what a file holds, so it is asked for again


class Count(NamedTuple):
    """What stretches hold. `lowest` and `highest` are hashes of their documents, `bad` the first lines that are none,
    `broken` says what is wrong with the whole file."""

    documents: int = 0
    size: int = 0
    other_size: int = 0  # of the documents that are not for training
    blank: bool = True
    lowest: int = HIGHEST
    highest: int = -1
    n_bad: int = 0
    bad: tuple[tuple[int, str], ...] = ()
    broken: str | None = None

    def plus(self, other: "Count") -> "Count":
        return Count(
            self.documents + other.documents,
            self.size + other.size,
            self.other_size + other.other_size,
            self.blank and other.blank,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
            self.n_bad + other.n_bad,
            (*self.bad, *other.bad)[:FEW],
            self.broken or other.broken,
        )


@dataclass(frozen=True)
class Checked:
    """What is known of each file of a text: its SHA-256 without a byte-order mark, and its counts."""

    sha256: list[str]
    counts: list[Count]

    @classmethod
    def from_json(cls, text: bytes) -> "Checked":
        content = parse_json(text)
        counts = [Count(*fields) for fields in content["counts"]]
        return cls(content["sha256"], [c._replace(bad=tuple((line, why) for line, why in c.bad)) for c in counts])

    @property
    def was_read(self) -> bool:
        """Whether the machine gave every file to read; those that it refused may be there the next time."""
        return not any(count.broken and count.broken.startswith(UNREAD) for count in self.counts)


def check_files(
    files: Sequence[TextFile],
    field: str,
    split: Split,
    cache: Path | None,
    *,
    keep: bool = True,
    processes: int | None = None,
) -> Checked:
    """Look through the files, or take what was kept of them; `split` says which documents are for what."""
    stamps = [(os.path.abspath(file.path), file.kind, file.stamp) for file in files]
    key = sha256_of(json.dumps([FORM, field, split.bounds, stamps]).encode())[:16]
    path = None if cache is None else cache / "texts" / f"{key}.json"
    if path is None or ((checked := _record(path)) is None and not keep):
        return _look(files, field, split, processes)
    if checked is None:
        with writing(path, key="paths.cache"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(lock_of(path)):  # of several processes that need it at once, one looks
                checked = _record(path) or _look(files, field, split, processes)
                if checked.was_read:
                    write_atomically(path, json.dumps(asdict(checked)).encode(), key="paths.cache")
    return checked


def _record(path: Path) -> Checked | None:
    """What was kept; None where it is not there, or damaged."""
    try:
        return Checked.from_json(read_file(path, most=None))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _look(files: Sequence[TextFile], field: str, split: Split, processes: int | None) -> Checked:
    counts, owners = [Count()] * len(files), list[int]()
    tasks: list[tuple[Callable[..., Any], Any]] = [(digest_file, file) for file in files]
    for number, file in enumerate(files):
        try:
            stretches = stretches_of(file)
        except (BadFile, OSError) as error:
            counts[number] = _broken(error)
            continue
        owners += [number] * len(stretches)
        tasks += [(count_documents, (stretch, field, split)) for stretch in stretches]
    sizes = [file.stamp.size for file in files] + [task[1][0].weight for task in tasks[len(files) :]]
    results: list[Any] = [None] * len(tasks)
    try:
        for i, result in each(_do, tasks, sizes, "reading", processes):
            results[i] = result
    except Changed as error:
        raise changed(error) from error
    for number, count in zip(owners, results[len(files) :], strict=True):
        counts[number] = counts[number].plus(count)
    for number, digest in enumerate(results[: len(files)]):
        if not digest and not counts[number].broken:
            counts[number] = counts[number]._replace(broken=UNREAD)
    return Checked(results[: len(files)], counts)


def changed(error: Changed) -> UsageError:
    return UsageError(f"data.path: {error} was changed while it was read; the same command begins anew")


def _do(task: tuple[Callable[..., Any], Any]) -> Any:
    return task[0](task[1])


def _broken(error: Exception, stretch: Stretch | None = None) -> Count:
    reason = f"{UNREAD}: {error.strerror}" if isinstance(error, OSError) else str(error)
    if isinstance(error, BadFile) and error.at is not None and stretch is not None:
        reason = f"line {before(stretch, error.at) + 1} {reason}"
    return Count(broken=reason)


def digest_file(file: TextFile) -> str:
    """The SHA-256 of what a file holds, without a byte-order mark; empty if it is damaged; Changed if it is another."""
    digest, kind = hashlib.sha256(), "" if file.kind in TABLES else file.kind
    try:
        with open_stream(file.path, kind, 0, ENDLESS, stamp=file.stamp) as stream:
            digest.update(stream.read(AT_ONCE).removeprefix(codecs.BOM_UTF8))
            while data := stream.read(AT_ONCE):
                digest.update(data)
    except (BadFile, OSError):
        return ""
    return digest.hexdigest()


def count_documents(task: tuple[Stretch, str, Split]) -> Count:
    """What a stretch holds; the lines of the bad ones are those of the file."""
    stretch, field, split = task
    bad = list[Bad]()
    documents = size = other_size = n_bad = 0
    lowest, highest, blank = HIGHEST, -1, True
    try:
        for piece in read(stretch, field, split):
            if isinstance(piece, Bad):
                n_bad += 1
                bad += [piece] * (n_bad <= FEW)
                continue
            documents, size = documents + piece.ends, size + piece.size
            other_size += piece.size * (piece.part != "train")
            blank = blank and not piece.text.strip()
            if piece.hash is not None:
                lowest, highest = min(lowest, piece.hash), max(highest, piece.hash)
        first = before(stretch) if bad else 0
    except (BadFile, OSError) as error:
        return _broken(error, stretch)
    lines = tuple((first + one.line, one.why) for one in bad)
    return Count(documents, size, other_size, blank, lowest, highest, n_bad, lines)
