"""A disk that fails at a chosen operation: every open, write, fsync, rename, unlink and so on below one folder.

`troubles` has each operation of some work fail, one after the other, without doing the work again each time: the
process that works splits where an operation is reached. The child, to which the operation fails, has a copy of the
folder in which all files that are open stand open where they did; the parent waits, puts its folder back, and goes on.
"""

import builtins
import errno
import fcntl
import gc
import io
import json
import os
import shutil
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from attnlab.errors import AttnlabError

BY_PATH = ("open", "unlink", "remove", "mkdir", "rmdir", "truncate", "replace", "rename")
BY_HANDLE = ("fsync", "write", "pwrite", "ftruncate")
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOENT)


class Disk:
    """Counts the operations below `root`; from number `at` on they fail, or that one alone (`once`)."""

    def __init__(self, root: Path, at: int | None = None, *, once: bool = False) -> None:
        self.root, self.at, self.once = str(root), at, once
        self.operations: list[str] = []

    def reach(self, what: str, path: str, name: str | None) -> None:
        """Note an operation, or refuse it; `name` is what the error says of the file."""
        if path != self.root and not path.startswith(f"{self.root}/"):
            return
        self.operations.append(f"{what} {path.removeprefix(self.root)}")
        if self.fails(len(self.operations) - 1):
            assert self.at is not None
            number = ERRORS[self.at % len(ERRORS)]
            raise OSError(number, os.strerror(number), name)

    def fails(self, place: int) -> bool:
        """Whether an operation does."""
        return self.at is not None and (place == self.at if self.once else place >= self.at)

    def __str__(self) -> str:
        if self.at is None:
            return "undisturbed"
        number = errno.errorcode[ERRORS[self.at % len(ERRORS)]]
        return f"{number} {'once' if self.once else 'from'} at {self.at}, {self.operations[self.at]}"


class Splitting(Disk):
    """A disk at which each operation, or each of `places`, fails in two processes of its own: once, and from then on.

    `given` are files that nothing writes to, which keep their inodes.
    """

    def __init__(self, root: Path, places: Collection[int] | None) -> None:
        super().__init__(root)
        self.places, self.busy = places, False
        self.given = {str(path) for path in root.rglob("*")}

    def reach(self, what: str, path: str, name: str | None) -> None:
        if not self.busy:
            super().reach(what, path, name)

    def fails(self, place: int) -> bool:
        if self.at is None and (self.places is None or place in self.places):
            for once in (True, False):
                if self._split():
                    self.at, self.once = place, once
                    break
        return super().fails(place)

    def _split(self) -> bool:
        """Split into two processes; whether this is the child, which has another folder at the same path."""
        assert threading.current_thread() is threading.main_thread()
        self.busy, aside = True, f"{self.root} aside"
        os.rename(self.root, aside)
        shutil.copytree(aside, self.root, symlinks=True, copy_function=self._copy)
        gc.freeze()  # to collect garbage in the child would copy all that both have
        if child := os.fork():
            os.waitpid(child, 0)
            shutil.rmtree(self.root)
            os.rename(aside, self.root)
        else:
            _reopen(aside, self.root)
        self.busy = False
        return not child

    def _copy(self, source: str, target: str) -> None:
        if target in self.given:
            os.link(source, target)
        else:
            shutil.copy2(source, target)


def _reopen(old: str, new: str) -> None:
    """Open every file of this process that lies below one folder in another, at the same point, locked as it was."""
    for name in os.listdir("/proc/self/fd"):
        handle, path = int(name), ""
        with suppress(OSError):  # the handle by which the handles were listed
            path = os.readlink(f"/proc/self/fd/{name}")
        if not path.startswith(f"{old}/"):
            continue
        about = dict(line.split(":\t", 1) for line in Path(f"/proc/self/fdinfo/{name}").read_text().splitlines())
        flags = int(about["flags"], 8) & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)
        again = os.open(new + path.removeprefix(old), flags)
        if "lock" in about:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not flags & os.O_DIRECTORY:
            os.lseek(again, int(about["pos"]), os.SEEK_SET)
        os.dup2(again, handle, inheritable=os.get_inheritable(handle))
        os.close(again)


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


def trouble(disk: Disk, work: Callable[[], object], *, exit_codes: Collection[int], told: str = "") -> str:
    """What is wrong with how some work ends while its disk fails, or with the same work once the disk is mended.

    It may end well, or in one line with one of these exit codes, which holds `told`. Nothing if all is as it should be.
    """
    try:
        with failing(disk):
            work()
    except AttnlabError as error:
        if "\n" in str(error) or told not in str(error) or error.exit_code not in exit_codes:
            return f"{error.exit_code}: {error}"
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    try:
        work()
    except AttnlabError as error:
        return f"not continued: {error}"
    return ""


class Troubles(NamedTuple):
    """How many operations some work makes, how many errors were injected into it, and what is wrong after which."""

    operations: int
    injected: int
    wrong: list[str]

    def __str__(self) -> str:
        good = self.injected - len(self.wrong)
        return f"{good} of {self.injected} errors injected into {self.operations} operations"


def troubles(root: Path, judge: Callable[[Disk], str], places: Collection[int] | None = None) -> Troubles:
    """Have every operation below a folder fail that `judge` makes, or those of `places`, once and from then on.

    `judge` does the work with a disk that fails, and says what is wrong, or nothing. It is called in a process of its
    own, which splits at each operation.
    """
    verdicts = root.with_name(f"{root.name} verdicts")
    trunk = os.fork()
    if not trunk:
        disk = Splitting(root, places)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                wrong = judge(disk)
        except BaseException:
            wrong = traceback.format_exc()
        with open(verdicts, "a") as file:  # of each process a line
            file.write(json.dumps([disk.at, len(disk.operations), f"{disk}: {wrong}" if wrong else ""]) + "\n")
        os._exit(0)
    os.waitpid(trunk, 0)
    lines = [json.loads(line) for line in verdicts.read_text().splitlines()]
    ((operations,),) = ([count for at, count, _ in lines if at is None],)
    expected = operations if places is None else len(places)
    assert len(lines) == 2 * expected + 1, "a process ended before it could say what is wrong"
    return Troubles(operations, 2 * expected, [wrong for *_, wrong in lines if wrong])
