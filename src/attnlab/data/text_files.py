"""A text of the user's own: a file, a folder, a glob or a list of these."""

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from attnlab.data.checking import FEW, Checked, Count, check_files
from attnlab.data.corpus import LEAST_BYTES, HeldBack, Share, Source, character_start, too_small
from attnlab.data.download import sha256_of
from attnlab.data.file_streams import open_stream
from attnlab.data.listing import TextFile, list_files
from attnlab.data.planning import ENDLESS, bom_of, in_units, stretches_of
from attnlab.data.stretches import NO_HASH, TABLES, Part, Split, Stretch, Unit
from attnlab.data.text import Order, Text, no_test_part
from attnlab.errors import UsageError
from attnlab.options import Text as NonEmpty
from attnlab.options import checked
from attnlab.options.rules import Rule
from attnlab.store.files import expand_path

Seed = Annotated[int, Rule(int, least=0, most=2**63 - 1)]
OnError = Literal["refuse", "skip"]
NAMED = 3  # damaged files that a refusal names


class File(Source):
    """Any text of yours, named by `data.path`: a file, a folder, a glob, or a list of these.

    A document is a .txt, a line of a .jsonl or a row of a .parquet, whose text stands at `field`; .gz and .zst are read
    as what they hold. Those of `val` are for validation; without it, of one .txt the last `val_fraction` of its bytes,
    of several documents those whose hashes with `split_seed` are in the lowest such share of hashes. `test_fraction` is
    held back likewise: the end of one .txt, the highest hashes of several documents, named validation files or not.
    What is damaged is refused, or left out and counted if `on_error` is skip.
    """

    @checked
    def __init__(
        self,
        path: Any = None,
        val_fraction: Share = 0.1,
        val: Any = None,
        split_seed: Seed = 0,
        field: NonEmpty = "text",
        on_error: OnError = "refuse",
        order: Order | None = None,
        documents: bool = False,
        separator: NonEmpty | None = None,
        test_fraction: HeldBack = 0.0,
    ) -> None:
        super().__init__(val_fraction, order, documents, separator, test_fraction)
        if not path:
            raise UsageError("data=file needs a text: set data.path=FILE, any UTF-8 text file, or a folder of them")
        self._choose(path, val, split_seed, field, on_error)

    def _choose(self, path: Any, val: Any, split_seed: int, field: str, on_error: OnError) -> None:
        self.path, self.val = paths_of(path, "data.path"), paths_of(val, "data.val") if val else None
        self.split_seed, self.field, self.on_error = split_seed, field, on_error

    def load(self, cache: Path | None = None, *, keep: bool = True, processes: int | None = None) -> Text:
        name, field = Path(self.path[0]).stem, self.field
        train, val = self.files()
        below = int(self.val_fraction * 2**64) if val is None or not self.test_fraction else 0
        split = Split(self.split_seed, below, NO_HASH - int(self.test_fraction * 2**64))

        def look(files: list[TextFile], key: str) -> "Listed":
            checked = check_files(files, field, split, cache, keep=keep, processes=processes)
            return _usable(files, checked, key, self.on_error)

        listed = look(train, "data.path")
        if val is not None:
            named = look(val, "data.val")
            return TextFiles(name, field, listed, named, _held_back(listed, split) if self.test_fraction else None)
        if listed.is_one_text:
            return OneText(field, listed, self.val_fraction, self.test_fraction)
        return TextFiles(name, field, listed, None, _settled(listed, split))

    def files(self) -> tuple[list[TextFile], list[TextFile] | None]:
        """The files, and those for validation if they are named."""
        return list_files(self.path), list_files(self.val, key="data.val") if self.val else None


def paths_of(value: Any, key: str) -> list[str]:
    """What is named, as a list; refused under its key if it is no path."""
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, Sequence) or not all(isinstance(path, str) and path for path in paths):
        raise UsageError(f"{key} ({value}) must be a file, a folder, a glob, or a list of these")
    return [str(expand_path(path, key=key)) for path in paths]


@dataclass(frozen=True)
class Listed:
    """Files that can be used, what is known of each, and what of them and beside them was left out."""

    files: list[TextFile]
    sha256: list[str]
    counts: list[Count]
    skipped: dict[str, Any]

    @property
    def is_one_text(self) -> bool:
        return len(self.files) == 1 and self.files[0].is_text

    @property
    def identity(self) -> list[Any]:
        kinds = (f".{file.kind.split('.')[1]}" for file in self.files)  # whatever compresses them
        return [list(pair) for pair in zip(kinds, self.sha256, strict=True)]

    @property
    def documents(self) -> int:
        return sum(count.documents for count in self.counts)


def _usable(files: Sequence[TextFile], checked: Checked, key: str, on_error: OnError) -> Listed:
    """The files without those that are broken or blank; one line that says what is wrong where it may not be."""
    n_files = n_documents = 0
    firsts, others = list[str](), list[str]()  # of each file, for one that is all bad should not hide another
    for file, count in zip(files, checked.counts, strict=True):
        n_files, n_documents = n_files + bool(count.broken), n_documents + (0 if count.broken else count.n_bad)
        unit = "row" if file.kind in TABLES else "line"
        whats = [count.broken] if count.broken else [f"{unit} {number} {why}" for number, why in count.bad]
        lines = [f"({file.path}) {what}" for what in whats]
        firsts, others = firsts + lines[:1], others + lines[1:]
    problems = [*firsts, *others][:FEW]
    if problems and on_error == "refuse":
        shown = firsts[:NAMED]
        more = n_files + n_documents - len(shown)
        rest = f" (and {more:,} more)" if more else ""
        remedy = "; data.on_error=skip leaves such out" if len(files) > 1 or n_documents else ""
        raise UsageError(f"{key} {'; '.join(shown)}{rest}{remedy}")
    rows = zip(files, checked.sha256, checked.counts, strict=True)
    usable = [row for row in rows if not row[2].broken and row[2].documents and not row[2].blank]
    if not usable:
        what = f"({files[0].path}) is empty: it must hold text" if len(files) == 1 else "names files without any text"
        raise UsageError(f"{key} {what}" + (f": {problems[0]}" if problems else ""))
    skipped = {"files": n_files, "documents": n_documents, "examples": problems} if problems else {}
    return Listed([row[0] for row in usable], [row[1] for row in usable], [row[2] for row in usable], skipped)


def _hashes(listed: Listed, split: Split) -> Iterator[tuple[int, int, int]]:
    """(lowest, highest, bytes that are not for training) of the documents of each file."""
    for file, digest, count in zip(listed.files, listed.sha256, listed.counts, strict=True):
        if file.is_text:
            key = split.hash(digest.encode())
            yield key, key, count.size * (split.part(key) != "train")
        else:
            yield count.lowest, count.highest, count.other_size


def _settled(listed: Listed, split: Split) -> Split:
    """The split, with its bound moved so far that neither part is empty."""
    lowest = min(low for low, _, _ in _hashes(listed, split))
    highest = max(high for _, high, _ in _hashes(listed, split))
    if lowest == highest:
        raise UsageError(
            f"data.path ({listed.files[0].path}) holds one document, which cannot be split: give more, or the text for "
            "validation as data.val"
        )
    moved = split._replace(below=min(max(split.below, lowest + 1), highest))
    return _held_back(listed, moved) if split.holds_back else moved


def _held_back(listed: Listed, split: Split) -> Split:
    """The split, with its other bound moved so far that something is held back, and something left to train on."""
    hashes = [*_hashes(listed, split)]
    test = min(split.test, max(high for _, high, _ in hashes))
    if listed.documents < 2 + (split.below > 0) or not any(
        low < test and high >= split.below for low, high, _ in hashes
    ):
        raise UsageError(
            f"data.path ({listed.files[0].path}) holds too few documents ({listed.documents}) to hold any back: give "
            "more, or leave data.test_fraction out"
        )
    return split._replace(test=test)


class TextFiles(Text):
    """Documents in files: by `split` each for training or validation, or those of `val` for that."""

    def __init__(self, name: str, field: str, train: Listed, val: Listed | None, split: Split | None) -> None:
        self.name, self.field, self.train, self.val, self.split = name, field, train, val, split
        rows = any(not file.is_text for part in (train, val) if part for file in part.files)
        content = {
            "train": train.identity,
            "val": val.identity if val else None,
            "field": field if rows else None,
            "seed": split.seed if split else None,
        }
        self.sha256 = sha256_of(json.dumps(content).encode())
        self.several = train.documents > 1

    @property
    def key(self) -> str:
        split = self.split
        if split is None or not split.holds_back:  # as it was before any were held back
            return f"{self.sha256}/{split and f'Split(seed={split.seed}, below={split.below})'}"
        return f"{self.sha256}/{split}"

    def tested(self) -> "TextFiles":
        if self.split is None or not self.split.holds_back:
            raise no_test_part()
        return TextFiles(self.name, self.field, self.train, self.val, self.split._replace(tested=True))

    @property
    def n_train_bytes(self) -> int:
        size = sum(count.size for count in self.train.counts)
        return size if self.split is None else size - sum(size for _, _, size in _hashes(self.train, self.split))

    @property
    def val_sha256(self) -> str:
        named = self.val is not None and not (self.split and self.split.tested)
        return sha256_of(json.dumps([self.field, self.val.identity] if named and self.val else self.key).encode())

    @property
    def skipped(self) -> dict[str, Any]:
        parts = [part.skipped for part in (self.train, self.val) if part and part.skipped]
        return {key: sum((part[key] for part in parts), type(parts[0][key])()) for key in parts[0]} if parts else {}

    def units(self) -> list[Unit]:
        return self._units

    @cached_property
    def _units(self) -> list[Unit]:
        named = self.val if not (self.split and self.split.tested) else None
        val = self._stretches(named, "val") if named else iter(())
        train = self._stretches(self.train, None if self.split else "train")
        return [*in_units(train), *in_units(val)]

    def _stretches(self, listed: Listed, part: Part | None) -> Iterator[Stretch]:
        for file, digest in zip(listed.files, listed.sha256, strict=True):
            own = part
            if part is None and file.is_text:
                assert self.split is not None
                own = self.split.part(self.split.hash(digest.encode()))
            yield from (replace(stretch, part=own) for stretch in stretches_of(file))


class OneText(Text):
    """A single .txt, of which the last bytes are for validation, or before them where some are held back for a test."""

    def __init__(self, field: str, listed: Listed, val_fraction: float, test_fraction: float = 0.0) -> None:
        (self.file,), (self.sha256,), (count,) = listed.files, listed.sha256, listed.counts
        self.name, self.field = Path(self.file.path).name.removesuffix(self.file.kind), field
        self.size, self.bom = count.size, bom_of(self.file)
        self.end = self._cut(self.size, test_fraction)
        self.cut = self._cut(self.end, val_fraction)
        self.judged = self.cut, self.end
        parts = self.cut, self.end - self.cut, self.size - self.end
        if min(parts[:2]) < LEAST_BYTES or (test_fraction and parts[2] < LEAST_BYTES):
            raise too_small(f"data.path ({self.file.path})", self.size, (val_fraction, test_fraction), parts)

    def _cut(self, size: int, fraction: float) -> int:
        """How many of the first `size` bytes are left without the last fraction, never half a character."""
        cut = int(size * (1 - fraction))
        if 0 < cut < size:
            first = max(0, cut - 3)
            with open_stream(self.file.path, self.file.kind, self.bom + first, self.bom + cut + 1) as stream:
                near = stream.read()
            return first + character_start(near, cut - first)
        return cut

    def tested(self) -> "OneText":
        if self.end == self.size:
            raise no_test_part()
        other = copy.copy(self)
        other.judged = self.end, self.size
        return other

    @property
    def key(self) -> str:
        return f"{self.sha256}/{self.cut}" + ("" if self.end == self.size else f"/{self.judged}")

    @property
    def n_train_bytes(self) -> int:
        return self.cut

    @property
    def val_sha256(self) -> str:
        start, stop = self.judged
        last = ENDLESS if stop == self.size else self.bom + stop
        with open_stream(self.file.path, self.file.kind, self.bom + start, last) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def units(self) -> list[Unit]:
        units, borders = list[Unit](), [0, self.cut, *([self.end] if self.end < self.size else []), self.size]
        for start, stop in pairwise(borders):
            part: Part = "train" if not start else "val" if start == self.judged[0] else "test"
            last = None if stop == self.size else self.bom + stop
            stretches = stretches_of(self.file, self.bom + start if start else 0, last)
            units += in_units(replace(stretch, part=part) for stretch in stretches)
        return units
