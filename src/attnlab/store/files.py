"""Files that are written whole or not at all, and read within bounds."""

import errno
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml

from attnlab.errors import FileFailure, UsageError
from attnlab.machine.signals import uninterrupted

TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}")  # the names of files that are being written
MOST_BYTES = 2**26  # of a file of text or numbers, unless somebody asks for more
MOST_YAML_BYTES, MOST_YAML_DEPTH, MOST_YAML_NODES = 2**20, 64, 10_000  # nodes: with every alias written out
LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # ten times faster, where it was built


def read_file(path: Path | str, most: int | None = MOST_BYTES) -> bytes:
    """The bytes of a regular file; an OSError if it is a device, a pipe or larger than `most` bytes."""
    with open_file(path) as file:
        data = file.read() if most is None else file.read(most + 1)
    if most is not None and len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return data


def open_file(path: Path | str) -> BufferedReader:
    """A regular file to be read; an OSError if it is a device or a pipe, which might have one wait for ever."""
    file = open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says; a ValueError whatever is wrong with it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str, most: int = MOST_YAML_NODES) -> Any:
    """What a YAML text says, in dictionaries with names, lists, text, numbers; a YAMLError whatever is wrong with it.

    A few lines of aliases can stand for more nodes than there is memory, and brackets within brackets overrun the
    stack of the parser: both are counted first.
    """
    check_yaml(text, most)
    try:
        return _plain(yaml.load(text, _EachKeyOnce))
    except (ValueError, RecursionError, OverflowError) as error:  # a date that does not exist, a number of 5,000 digits
        raise yaml.YAMLError(" ".join(str(error).split())) from error


class _EachKeyOnce(LOADER):  # type: ignore[misc]
    """Of two values of one key YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for twice in [key for i, key in enumerate(keys) if key in keys[:i]]:
            raise ValueError(f"{twice} stands twice in one place, line {node.start_mark.line + 1} or below")
        return super().construct_mapping(node, deep)


def check_yaml(text: str, most: int = MOST_YAML_NODES) -> None:
    """Refuse a YAML text that would come to more than `most` values, as no config does, with a YAMLError."""
    if len(text) > MOST_YAML_BYTES:
        raise yaml.YAMLError(f"it is longer than {MOST_YAML_BYTES:,} characters")
    sizes: dict[str, int] = {}  # nodes that an anchor stands for
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and how many nodes there were before
    count = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.AliasEvent):
            count += sizes.get(event.anchor, 0)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            sizes[event.anchor or ""] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = most + 1  # until it is closed: an alias within would never end
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            sizes[anchor or ""] = count - before
        if count > most:
            raise yaml.YAMLError(f"it stands for more than {most:,} values")
        if len(open_nodes) > MOST_YAML_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MOST_YAML_DEPTH} deep")


def _plain(node: Any) -> Any:
    """The node, if it holds nothing but what a config may hold."""
    if isinstance(node, dict):
        if strange := [key for key in node if not isinstance(key, str)]:
            raise ValueError(f"{strange[0]!r} is a key that is not text")
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if node is None or isinstance(node, str | bool | float) or (isinstance(node, int) and abs(node) < 2**63):
        return node
    raise ValueError(f"it holds a value that no config has ({type(node).__name__})")


def write_atomically(path: Path, data: bytes, *, key: str) -> None:
    """Write a file so that nobody ever sees half of it, not even after a power cut.

    The bytes go into a temporary file beside it, both it and the folder are flushed to disk, and a rename makes it
    the file. `key` is the setting to name if that is impossible.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")  # same folder: a rename is atomic
    with uninterrupted(), writing(path, key=key):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        flush_folder(path.parent)


@contextmanager
def new_folder(folder: Path, *, key: str) -> Iterator[Path]:
    """A folder beside the one that is to be, which becomes it at the end of the block; gone if that is not reached."""
    check_new_folder(folder, key=key)
    with writing(folder, key=key):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            whole = Path(temporary) / "whole"
            whole.mkdir()
            yield whole
            whole.replace(folder)
        flush_folder(folder.parent)


def write_folder(folder: Path, files: Mapping[str, bytes], *, key: str) -> None:
    """Write a new folder with these files, all of it or nothing; refused if something is there."""
    with uninterrupted(), new_folder(folder, key=key) as whole:
        for name, data in files.items():
            with (whole / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def tidy(folder: Path, name: str = "*") -> None:
    """Remove what `write_atomically` left of a file, or of all in a folder, when it was cut off; only the owner may."""
    for path in folder.glob(f".{name}.*"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, *, key: str) -> Iterator[None]:
    """Turn whatever the system says against writing `path` into a FileFailure; `key` is the setting to name."""
    try:
        yield
    except OSError as error:
        raise FileFailure(
            f"cannot write {path} ({error.strerror or error}); {key} says where it goes; the same command goes on when "
            "that is mended"
        ) from error


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put a path into errors that have none: Python names the file where an open fails, but not where a write does."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def failures() -> Iterator[None]:
    """Let whatever the system says about a file be a FileFailure; that nobody reads the output is none."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise file_failure(error) from error


def file_failure(error: OSError) -> FileFailure:
    """What the system said about a file, in one line."""
    gone = error.errno == errno.ENOENT  # of what has no name, only the folder that a command was typed in can be
    path = error.filename or ("the current folder" if gone else "standard output")  # files have a name (see `named`)
    return FileFailure(f"{path}: {error.strerror or error}; the same command goes on when that is mended")


def flush_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def expand_path(path: str | Path, *, key: str) -> Path:
    """A path as a user types it, ~ and ~name standing for home folders; refused under its key if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # no such user
        raise UsageError(f"{key} ({path}) begins with the home folder of a user who is not known here") from error


def check_writable(folder: Path, *, key: str) -> None:
    """Refuse a folder that cannot be made or written into, without making it."""
    try:
        os.fsencode(folder)
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{key} ({str(folder)!a}) cannot be written in the encoding of the locale ({error.encoding}); PYTHONUTF8=1 "
            "before the command makes that UTF-8"
        ) from error
    nearest = folder.absolute()
    while not os.path.exists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not os.path.isdir(nearest):
        raise UsageError(f"{key} ({folder}) cannot be written: {nearest} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=nearest):  # an attempt knows more than permissions do: read-only disks, quotas
            pass
    except OSError as error:
        raise UsageError(f"{key} ({folder}) cannot be written: {error.strerror} in {nearest}") from error


def check_new_folder(folder: Path, *, key: str) -> None:
    """Refuse a folder that cannot be made, or that holds something."""
    check_writable(folder, key=key)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{key} ({folder}) is there already, and nothing is written over: name another")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_atomically(path, (json.dumps(dict(content), indent=2) + "\n").encode(), key="paths.runs")
