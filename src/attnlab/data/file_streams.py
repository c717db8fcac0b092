"""Files of text as streams of bytes, and tables as rows: whatever compresses them, within bounded memory."""

import errno
import gzip
import io
import os
import stat
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.errors import UsageError

AT_ONCE = 1 << 20  # bytes
FEW_ROWS = 64


class BadFile(Exception):
    """A file that is not what its name says, in words that follow the name; `at` is the byte of what it holds where it
    stops being that, None where no byte is to blame."""

    def __init__(self, why: str, at: int | None = None) -> None:
        super().__init__(why)
        self.at = at


class Changed(Exception):
    """A file that is not what it was when it was listed."""


class Stamp(NamedTuple):
    """By what a file counts as unchanged without being read."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, about: os.stat_result) -> "Stamp":
        return cls(about.st_size, about.st_mtime_ns, about.st_ino)


@contextmanager
def open_stream(
    path: str, kind: str, start: int, stop: int, data: bytes | None = None, stamp: Stamp | None = None
) -> Iterator[BufferedIOBase]:
    """The bytes `start` to `stop` of what a file holds when it is not compressed, or of `data`.

    Raises BadFile where it is damaged, Changed where it is not what was listed, before or after it was read.
    """
    if data is not None:
        yield io.BytesIO(data[start:stop])
        return
    with open_regular(path) as file:
        _check(file, path, stamp)
        content = decompressed(file, kind)
        stream = _Until(content, stop)
        try:
            if content is file:
                stream.at = file.seek(start)
            while stream.at < start and stream.read(min(start - stream.at, AT_ONCE)):
                pass
            yield io.BufferedReader(stream, AT_ONCE)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            how = "is cut off" if isinstance(error, EOFError) else "is damaged"
            raise BadFile(f"{how}: {' '.join(str(error).split())}", stream.at) from error
        _check(file, path, stamp)


def open_regular(path: str | Path) -> BufferedIOBase:
    """A regular file; an OSError where it is a device or a pipe, which is not waited for."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    file = os.fdopen(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def _check(file: BufferedIOBase, path: str, stamp: Stamp | None) -> None:
    if stamp is not None and Stamp.of(os.fstat(file.fileno())) != stamp:
        raise Changed(path)


def decompressed(file: BufferedIOBase, kind: str) -> Any:
    """The stream of what a file holds."""
    if kind.endswith(".gz"):
        return gzip.GzipFile(fileobj=file)
    return _Zstandard(file) if kind.endswith(".zst") else file


class _Until(io.RawIOBase):
    """A stream up to a byte; `at` is the one that comes next."""

    def __init__(self, stream: Any, stop: int) -> None:
        self.next = getattr(stream, "read1", stream.read)  # the other loses what came before a damage
        self.at, self.stop = 0, stop

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.at == self.stop:  # what comes behind may be damaged
            return 0
        data = self.next(min(len(buffer), self.stop - self.at))
        self.at += len(data)
        buffer[: len(data)] = data
        return len(data)


class _Zstandard:
    """What a file of zstandard frames holds; an EOFError where one is cut off, which the library's readers let pass."""

    def __init__(self, file: BufferedIOBase) -> None:
        self.new, self.error = _zstandard()
        self.file, self.buffer = file, bytearray()
        self.frame: Any = None  # the one that is being read

    def read(self, size: int) -> bytes:
        while len(self.buffer) < size and (data := self.file.read(AT_ONCE >> 3)):
            try:
                while data:
                    self.frame = self.new() if self.frame is None else self.frame
                    self.buffer += self.frame.decompress(data)
                    data = self.frame.unused_data if self.frame.eof else b""
                    self.frame = None if self.frame.eof else self.frame
            except self.error as error:
                raise zlib.error(str(error)) from error
        if not self.buffer and self.frame is not None:
            raise EOFError("the last frame has no end")
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data


def _zstandard() -> tuple[Any, Any]:
    try:
        import zstandard
    except ImportError as error:
        raise UsageError("data.path names a .zst file, which needs zstandard: pip install 'attnlab[text]'") from error
    return lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError


def pyarrow_of(kind: str) -> Any:
    """The library that reads tables."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(f"data.path names a {kind} file, which needs pyarrow: pip install 'attnlab[text]'") from error
    return pyarrow


def path_in(names: Any, field: str) -> list[str]:
    """The names that lead to a field: its own, or those between its dots where nothing has that name."""
    return [field] if isinstance(names, Container) and field in names else field.split(".")


def n_groups(path: str, kind: str) -> list[int]:
    """The rows of each group or batch of a table."""
    with _table(path, kind) as table:
        if kind == ".parquet":
            return [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
        return [batch.num_rows for batch in table]


def rows(path: str, kind: str, start: int, stop: int, field: str) -> Iterator[tuple[int, Any]]:
    """(number, what stands in the column) of the rows of groups `start` to `stop`, numbered from 1 in them."""
    with _table(path, kind) as table:
        names = table.schema_arrow.names if kind == ".parquet" else table.schema.names
        column, *inside = path_in(names, field)
        if column not in names:
            raise BadFile(f"has no field {field!r}: it has {', '.join(names[:8])}")
        if kind == ".parquet":
            groups = list(range(start, stop))
            batches = table.iter_batches(FEW_ROWS, row_groups=groups, columns=[column], use_threads=False)
        else:
            batches = (batch for i, batch in enumerate(table) if start <= i < stop)
        number = 0
        for batch in batches:
            for scalar in batch.column(batch.schema.get_field_index(column)):  # one at a time: they may be long
                number, value = number + 1, scalar.as_py()
                for name in inside:
                    value = value.get(name) if isinstance(value, dict) else None
                yield number, value


@contextmanager
def _table(path: str, kind: str) -> Iterator[Any]:
    arrow = pyarrow_of(kind)
    try:
        with arrow.memory_map(path) as file:
            if kind == ".parquet":
                yield arrow.parquet.ParquetFile(file, buffer_size=AT_ONCE, pre_buffer=False)
            else:
                yield arrow.ipc.open_stream(file)
    except (arrow.ArrowException, OSError) as error:
        raise BadFile(f"is damaged: {' '.join(str(error).split())[:120]}") from error
