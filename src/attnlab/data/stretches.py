"""A stretch of a text, and the documents in it one after the other: of a file, compressed or not, or of some bytes.

A document is a file for .txt, a line for .jsonl, a row for .parquet and .arrow. What is read at once is bounded.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Literal, NamedTuple

from attnlab.data.file_streams import BadFile, Stamp, open_stream, path_in, rows

Part = Literal["train", "val", "test"]  # test: held back
BLOCK = 1 << 20  # bytes or characters that are encoded at once
WINDOW = 1 << 16  # in which a cut is looked for
MOST_LINE = 1 << 24  # bytes of a line
TABLES = (".parquet", ".arrow")
# Between a letter or digit and a line break, or a blank, every pattern that we know cuts a text, and none looks back.
CUTS = (re.compile(r"[^\W_](?=[\r\n])"), re.compile(r"[^\W_](?= )"))


NO_HASH = 1 << 64  # above all of them


class Split(NamedTuple):
    """Which documents are for validation: those whose hash with this seed is below a bound, equal ones alike.

    Those from the bound `test` on are held back; when they are judged (`tested`), those for validation are.
    """

    seed: int
    below: int
    test: int = NO_HASH
    tested: bool = False

    @property
    def holds_back(self) -> bool:
        """Whether any hash there can be is for the test part."""
        return self.test < NO_HASH

    @property
    def bounds(self) -> tuple[int, ...]:
        """What decides which documents are for training; as it was before any were held back, where none is."""
        return self[:3] if self.holds_back else (self.seed, self.below)

    def hash(self, document: bytes) -> int:
        """A number of 0 .. 2^64 - 1."""
        key = self.seed.to_bytes(8, "little")
        return int.from_bytes(hashlib.blake2b(document, digest_size=8, key=key).digest(), "little")

    def part(self, key: int) -> Part:
        """What the documents with this hash are for."""
        if self.below <= key < self.test:
            return "train"
        return "val" if (key >= self.test) == self.tested else "test"


class TextPiece(NamedTuple):
    """At most a block of a document, and whether the document ends with it; `size` in bytes."""

    text: str
    size: int
    part: Part
    ends: bool
    hash: int | None = None  # of the document, where that decides its part


class Bad(NamedTuple):
    """A line or row that holds no document: its number in the stretch, from 1, and why."""

    line: int
    why: str


@dataclass(frozen=True)
class Stretch:
    """Bytes `start` to `stop` of what a file holds without its compression; of .parquet row groups, of .arrow batches.

    `part` is what the documents are for, None where their hashes decide; `ends` says whether a .txt ends here. `stamp`
    is what the file was when it was listed, `weight` the bytes of it that are read. With `data` there is no file.
    """

    path: str
    kind: str
    start: int
    stop: int
    part: Part | None = "train"
    ends: bool = True
    stamp: Stamp | None = None
    data: bytes | None = None
    weight: int = 0


Unit = tuple[Stretch, ...]  # what one process does at a time


def read(stretch: Stretch, field: str, split: Split | None) -> Iterator[TextPiece | Bad]:
    """The documents of a stretch, in order. Raises BadFile, or Changed if the file is not what was listed."""
    if stretch.kind in TABLES:
        yield from _texts(rows(stretch.path, stretch.kind, stretch.start, stretch.stop, field), stretch, split)
        return
    with open_stream(stretch.path, stretch.kind, stretch.start, stretch.stop, stretch.data, stretch.stamp) as stream:
        if stretch.kind.startswith(".jsonl"):
            yield from _texts(_lines(stream, stretch.start, field), stretch, split)
        else:
            yield from _blocks(stream, stretch)


def _blocks(stream: BufferedIOBase, stretch: Stretch) -> Iterator[TextPiece]:
    assert stretch.part is not None, "a .txt is one document, which the one who lists it puts in a part"
    offset, buffer = stretch.start, stream.read(BLOCK + WINDOW)
    if offset == 0:
        check_beginning(buffer)
        buffer = buffer.removeprefix(codecs.BOM_UTF8)
    while buffer:
        end = len(buffer) if len(buffer) <= BLOCK else cut_in(buffer, BLOCK)
        block, rest = buffer[:end], buffer[end:]
        text = as_text(block, offset)
        offset, buffer = offset + end, rest + stream.read(BLOCK + WINDOW - len(rest))
        yield TextPiece(text, len(block), stretch.part, stretch.ends and not buffer)


def cut_in(buffer: bytes, at: int) -> int:
    """Where a text may be cut, from `at` on: its halves get the tokens that they get together.

    Behind the first letter or digit before a line break, else before a blank; where there is none, between characters.
    """
    window = buffer[at : at + WINDOW]
    skipped = next((i for i, byte in enumerate(window[:4]) if byte & 0b1100_0000 != 0b1000_0000), 0)
    text = window[skipped:].decode(errors="surrogateescape")
    match = next((match for pattern in CUTS if (match := pattern.search(text))), None)
    return at + skipped + (len(text[: match.end()].encode(errors="surrogateescape")) if match else 0)


def check_beginning(data: bytes) -> None:
    """Refuse a text in another encoding by its first bytes."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # that of UTF-32 begins alike
        raise BadFile("is UTF-16 or UTF-32 by its byte-order mark: convert the file to UTF-8")


def as_text(data: bytes, offset: int = 0) -> str:
    """What the bytes say; BadFile, with the place where they stop being text."""
    nul = data.find(0)
    if nul >= 0:
        why = f"is not text: byte {offset + nul} is NUL, as in a binary or UTF-16 file; save it as plain UTF-8 text"
        raise BadFile(why, offset + nul)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        at = offset + error.start
        why = f"is not UTF-8 text: byte {at} (0x{data[error.start]:02X}) does not fit; convert the file to UTF-8"
        raise BadFile(why, at) from error


def _lines(stream: BufferedIOBase, start: int, field: str) -> Iterator[tuple[int, object]]:
    """(number, what stands at the field of a line, or Bad); lines of blanks alone are none."""
    number = 0
    while line := stream.readline(MOST_LINE + 1):
        number += 1
        if start == 0 and number == 1:
            check_beginning(line)
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > MOST_LINE and not line.endswith(b"\n"):
            while (more := stream.readline(BLOCK)) and not more.endswith(b"\n"):
                pass
            yield number, Bad(number, f"is longer than {MOST_LINE >> 20} MiB")
        elif line.strip():
            yield number, _at_field(line, field, number)
        else:
            yield number, ""


def _at_field(line: bytes, field: str, number: int) -> object:
    try:
        content = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Bad(number, f"is not UTF-8: byte {error.start} (0x{line[error.start]:02X}) does not fit")
    except json.JSONDecodeError as error:
        return Bad(number, f"is not JSON ({error.msg.removesuffix(' at')} at character {error.pos + 1})")
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets within brackets
        return Bad(number, f"is not JSON ({' '.join(str(error).split())[:80]})")
    for name in path_in(content, field):
        if not isinstance(content, dict) or name not in content:
            return Bad(number, f"has no field {field!r}")
        content = content[name]
    return content


def _texts(values: Iterator[tuple[int, object]], stretch: Stretch, split: Split | None) -> Iterator[TextPiece | Bad]:
    for number, value in values:
        if isinstance(value, Bad):
            yield value
        elif not isinstance(value, str):
            yield Bad(number, f"holds no text in its field, but {type(value).__name__}")
        elif value:
            try:
                data = value.encode()
            except UnicodeEncodeError as error:
                yield Bad(number, f"holds half a character (U+{ord(value[error.start]):04X})")
                continue
            part, key = stretch.part, None
            if part is None:
                assert split is not None, "hashes decide"
                key = split.hash(data)
                part = split.part(key)
            if len(data) <= BLOCK:
                yield TextPiece(value, len(data), part, True, key)
                continue
            while data:
                end = len(data) if len(data) <= BLOCK else cut_in(data, BLOCK)
                yield TextPiece(data[:end].decode(), end, part, end == len(data), key)
                data = data[end:]
