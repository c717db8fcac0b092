"""The text a model is trained on, cut into a training and a validation part before anything is tokenised."""

import codecs
import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from attnlab.data.download import fetch, sha256_of
from attnlab.data.file_streams import BadFile
from attnlab.data.stretches import Part, Stretch, Unit, as_text, check_beginning
from attnlab.data.text import Order, no_test_part
from attnlab.data.text import Text as AnyText
from attnlab.errors import UsageError
from attnlab.options import Text, checked
from attnlab.options.rules import Rule
from attnlab.store.files import expand_path, read_file

CHAPTER_SENTENCE = "Your journey starts with one step."  # the example of "Coding Attention Mechanisms"
Share = Annotated[float, Rule(float, above=0, below=1)]
HeldBack = Annotated[float, Rule(float, least=0, below=1)]
LEAST_BYTES = 2  # of each part: one token to read and one to predict


@dataclass(frozen=True)
class Corpus(AnyText):
    """A short text in two parts, UTF-8 bytes each; `sha256` is that of the whole text, in hexadecimal."""

    name: str
    train: bytes
    val: bytes
    sha256: str
    probe: str | None = None
    test: bytes = b""  # held back from training and validation alike

    def tested(self) -> "Corpus":
        """The same text with its test part where the validation part was; refused where nothing was held back."""
        if not self.test:
            raise no_test_part()
        return replace(self, val=self.test, test=self.val)

    @property
    def key(self) -> str:
        return f"{sha256_of(self.train)}/{sha256_of(self.val)}"

    @property
    def train_key(self) -> str:
        return sha256_of(self.train)

    @property
    def n_train_bytes(self) -> int:
        return len(self.train)

    @property
    def val_sha256(self) -> str:
        return sha256_of(self.val)

    def units(self) -> list[Unit]:
        def stretch(part: Part, data: bytes) -> Stretch:
            return Stretch("", ".txt", 0, len(data), part, data=data, weight=len(data))

        held_back = [stretch("test", self.test)] if self.test else []  # its characters are in the vocabulary
        return [(stretch("train", self.train), stretch("val", self.val), *held_back)]

    @classmethod
    def from_bytes(
        cls,
        name: str,
        data: bytes,
        val_fraction: float,
        test_fraction: float = 0.0,
        *,
        source: str,
        probe: str | None = None,
    ) -> "Corpus":
        """Check that `data` is text and cut it; `source` names it in error messages. A byte-order mark is no text.

        The test part is cut off its end, then the validation part off the end of the rest.
        """
        data = data.removeprefix(codecs.BOM_UTF8)
        check_text(data, source)
        end = cut_at(data, test_fraction)
        rest, test = data[:end], data[end:]
        cut = cut_at(rest, val_fraction)
        if min(cut, len(rest) - cut) < LEAST_BYTES or (test_fraction and len(test) < LEAST_BYTES):
            raise too_small(source, len(data), (val_fraction, test_fraction), (cut, len(rest) - cut, len(test)))
        return cls(name, rest[:cut], rest[cut:], sha256_of(data), probe, test)


def too_small(source: str, size: int, fractions: tuple[float, float], sizes: tuple[int, int, int]) -> UsageError:
    """What to say of a text that cannot be cut at a byte; `fractions` are those of validation and test."""
    keys = f"data.val_fraction ({fractions[0]:g})"
    keys += f" and data.test_fraction ({fractions[1]:g}) leave" if fractions[1] else " leaves"
    parts = [f"{n} for {part}" for n, part in zip(sizes, ("training", "validation", "test"), strict=True)]
    shown = f"{', '.join(parts[:2])} and {parts[2]}" if fractions[1] else " and ".join(parts[:2])
    return UsageError(
        f"{source} is too small: of its {size} bytes, {keys} {shown}, and each needs at least {LEAST_BYTES}"
    )


def cut_at(data: bytes, val_fraction: float) -> int:
    """How many bytes are for training: all but the last `val_fraction`, never cutting through a character."""
    return character_start(data, int(len(data) * (1 - val_fraction)))


def character_start(data: bytes, at: int) -> int:
    """Where the character begins that a byte is of; the byte itself at either end."""
    while 0 < at < len(data) and data[at] & 0b1100_0000 == 0b1000_0000:  # the inside of a UTF-8 sequence
        at -= 1
    return at


def check_text(data: bytes, source: str) -> None:
    """Refuse bytes that are not a text in UTF-8, saying where they stop being one."""
    if not data.strip():
        raise UsageError(f"{source} is empty: it must hold text")
    try:
        check_beginning(data)
        as_text(data)
    except BadFile as error:
        before = 0 if error.at is None else data.count(b"\n", 0, error.at)
        line = "" if error.at is None else f"line {before + 1} "
        raise UsageError(f"{source} {line}{error}") from error


def read(path: Path, source: str) -> bytes:
    """The bytes of a regular file, or one line that says why there are none."""
    if os.path.isdir(path):  # unlike Path.is_dir it never raises, whatever the name
        raise UsageError(f"{source} is a folder: it must be one text file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{source} is not a regular file")
    try:
        return read_file(path, most=None)
    except FileNotFoundError as error:
        raise UsageError(f"{source} does not exist (looked in {Path.cwd()})") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{source} cannot be read: {getattr(error, 'strerror', None) or error}") from error


class Source(ABC):
    """Where a corpus comes from. Building one is cheap and checks the settings; `load` reads or fetches the text.

    With `documents` its rows are packed with whole documents, which do not see each other: those that the text came in,
    or, where it is one, what stands between matches of the regular expression `separator`, each with its end.
    `test_fraction` of the text is held back from training and validation alike, for a last judgement.
    """

    @checked
    def __init__(
        self,
        val_fraction: Share = 0.1,
        order: Order | None = "random",
        documents: bool = False,
        separator: Text | None = None,
        test_fraction: HeldBack = 0.0,
    ) -> None:
        self.val_fraction, self.test_fraction, self.order = float(val_fraction), float(test_fraction), order
        if test_fraction and self.val_fraction + self.test_fraction >= 1:
            raise UsageError(
                f"data.test_fraction ({test_fraction:g}) and data.val_fraction ({val_fraction:g}) must leave something "
                "to train on: together they must be below 1"
            )
        self.documents, self.separator = documents, separator
        if separator is not None:
            check_separator(separator)

    @abstractmethod
    def load(self, cache: Path | None = None, *, keep: bool = True) -> AnyText:
        """Check the text and split it in two. What took time is looked for under `cache`, and kept there if `keep`."""


def check_separator(separator: str) -> None:
    """Refuse what is no regular expression, or would part a text everywhere."""
    try:
        everywhere = re.compile(separator.encode()).match(b"")
    except re.error as error:
        raise UsageError(f"data.separator ({separator!r}) must be a regular expression: {error}") from error
    if everywhere:
        raise UsageError(f"data.separator ({separator!r}) must not match a text of nothing")


class Stories(Source):
    """The short stories that come with attnlab.

    A relative path is looked up in the current folder first and then beside the package, so that training
    starts from anywhere. `sha256`, if given, must be that of the file.
    """

    @checked
    def __init__(
        self,
        path: Text = "data/stories.txt",
        val_fraction: Share = 0.1,
        sha256: str | None = None,
        order: Order | None = "random",
        *,
        documents: bool = False,
        separator: Text | None = None,
        test_fraction: HeldBack = 0.0,
    ) -> None:
        super().__init__(val_fraction, order, documents, separator, test_fraction)
        self.path, self.sha256 = expand_path(path, key="data.path"), sha256

    def load(self, cache: Path | None = None, *, keep: bool = True) -> Corpus:
        source = f"data.path ({self.path})"
        package = Path(__file__).parents[1]
        checkout = package.parents[1]
        path = next(
            (root / self.path for root in (Path(), checkout, package) if os.path.exists(root / self.path)),
            self.path,
        )
        data = read(path, source)
        if self.sha256 is not None:
            _check_sha256(data, self.sha256, source)
        fractions = (self.val_fraction, self.test_fraction)
        return Corpus.from_bytes(self.path.stem, data, *fractions, source=source, probe=CHAPTER_SENTENCE)


class PythonDocs(Source):
    """The language reference that ships with CPython as `pydoc_data.topics`: nothing to download.

    Topics follow each other in alphabetical order, a text that stands under two names once. The text, and
    with it the corpus' hash, belongs to the running version of Python.
    """

    def load(self, cache: Path | None = None, *, keep: bool = True) -> Corpus:
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            raise UsageError("data=python_docs: this Python comes without pydoc_data; choose another data=") from error
        texts = dict.fromkeys(topics[name].strip("\n") for name in sorted(topics))
        data = "\n\n\n".join(texts).encode()
        return Corpus.from_bytes("python_docs", data, self.val_fraction, self.test_fraction, source="data=python_docs")


class Download(Source):
    """A text that is fetched once, checked against a pinned SHA-256 and kept in `folder`.

    `path` names a copy you already have; it is used instead, and checked all the same.
    """

    def __init__(
        self,
        name: str,
        url: str,
        sha256: str,
        folder: str,
        path: str | None = None,
        val_fraction: float = 0.1,
        order: Order | None = "random",
        *,
        documents: bool = False,
        separator: Text | None = None,
        test_fraction: HeldBack = 0.0,
    ) -> None:
        super().__init__(val_fraction, order, documents, separator, test_fraction)
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise UsageError(f"data.sha256 ({sha256}) must be 64 hexadecimal digits, in small letters")
        if not url.startswith(("https://", "http://")):
            raise UsageError(f"data.url ({url}) must start with https://")
        self.name, self.url, self.sha256 = name, url, sha256
        self.folder = expand_path(folder, key="data.folder")
        self.path = expand_path(path, key="data.path") if path else None

    def load(self, cache: Path | None = None, *, keep: bool = True) -> Corpus:
        if self.path is not None:
            source = f"data.path ({self.path})"
            data = read(self.path, source)
            _check_sha256(data, self.sha256, source)
        else:
            source = f"data={self.name}"
            path = self.folder / f"{self.name}.txt"
            data = fetch(self.url, path, self.sha256, who=source, otherwise="set data.path=FILE to a copy of it")
        return Corpus.from_bytes(self.name, data, self.val_fraction, self.test_fraction, source=source)


def _check_sha256(data: bytes, expected: str, source: str) -> None:
    got = sha256_of(data)
    if got != expected:
        raise UsageError(
            f"{source} has sha256 {got}, but data.sha256 is {expected}; to train on a text of your own, use data=file"
        )
