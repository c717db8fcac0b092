"""A disk that fails at a chosen operation: every open, write, fsync, rename, unlink and so on below one folder."""

import builtins
import errno
import io
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from attnlab.errors import AttnlabError

BY_PATH = ("open", "unlink", "remove", "mkdir", "rmdir", "truncate", "replace", "rename")
BY_HANDLE = ("fsync", "write", "pwrite", "ftruncate")
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOENT)
Case = tuple[int, int, bool]  # the operation that fails, the error, and whether it is the only one


class Disk:
    """Counts the operations below `root`; from number `at` on they fail with `number`, or that one alone (`once`)."""

    def __init__(self, root: Path, at: int | None = None, number: int = 0, *, once: bool = False) -> None:
        self.root, self.at, self.number, self.once = str(root), at, number, once
        self.operations: list[str] = []

    def reach(self, what: str, path: str, name: str | None) -> None:
        """Note an operation, or refuse it; `name` is what the error says of the file."""
        if not path.startswith(self.root):
            return
        self.operations.append(f"{what} {path.removeprefix(self.root)}")
        place = len(self.operations) - 1
        if self.at is not None and (place == self.at if self.once else place >= self.at):
            raise OSError(self.number, os.strerror(self.number), name)


class _Raw(io.FileIO):
    disk: Disk

    def write(self, data: Any, /) -> int:
        self.disk.reach("write", os.readlink(f"/proc/self/fd/{self.fileno()}"), None)
        return super().write(data)


def _path(file: Any, folder: int | None = None) -> str:
    if isinstance(file, int):
        return os.readlink(f"/proc/self/fd/{file}")
    path = os.fsdecode(file)
    return os.path.join(_path(folder), path) if folder is not None else os.path.abspath(path)


@contextmanager
def failing(disk: Disk) -> Iterator[None]:
    """While the block runs, operations of this process go through the disk."""
    usual_open = io.open

    def by_path(usual: Callable[..., Any], what: str) -> Callable[..., Any]:
        def operation(path: Any, *args: Any, **settings: Any) -> Any:
            where = _path(path, settings.get("dir_fd"))
            disk.reach(what, where, where)
            return usual(path, *args, **settings)

        return operation

    def by_handle(usual: Callable[..., Any], what: str) -> Callable[..., Any]:
        def operation(handle: int, *args: Any) -> Any:
            disk.reach(what, _path(handle), None)
            return usual(handle, *args)

        return operation

    def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **settings: Any) -> Any:
        path = _path(file)
        disk.reach("open", path, path)
        if not path.startswith(disk.root) or not set(mode) & set("wax"):
            return usual_open(file, mode, buffering, *args, **settings)
        raw = _Raw(file, mode.replace("b", "").replace("t", ""), opener=settings.get("opener"))
        raw.disk = disk
        buffer = io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, settings.get("encoding"))

    patches = [mock.patch.object(os, name, by_path(getattr(os, name), name)) for name in BY_PATH]
    patches += [mock.patch.object(os, name, by_handle(getattr(os, name), name)) for name in BY_HANDLE]
    patches += [mock.patch.object(module, "open", opened) for module in (io, builtins)]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def every_case(operations: int) -> list[Case]:
    """Each operation fails, with one error after the other: for this one alone, and from then on."""
    return [(at, ERRORS[at % len(ERRORS)], once) for at in range(operations) for once in (True, False)]


def trouble(disk: Disk, work: Callable[[], object], *, exit_codes: Collection[int], told: str = "") -> str:
    """What is wrong with how some work ends while its disk fails, or with the same work once the disk is mended.

    It may end well, or in one line with one of these exit codes, which holds `told`. Nothing if all is as it should be.
    """
    assert disk.at is not None
    try:
        with failing(disk):
            work()
    except AttnlabError as error:
        if "\n" in str(error) or told not in str(error) or error.exit_code not in exit_codes:
            return f"{disk.operations[disk.at]}: {error.exit_code}: {error}"
    except (Exception, SystemExit) as error:
        return f"{disk.operations[disk.at]}: {type(error).__name__}: {error}"
    try:
        work()
    except AttnlabError as error:
        return f"{disk.operations[disk.at]}: not continued: {error}"
    return ""
