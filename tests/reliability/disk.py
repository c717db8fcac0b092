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
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

from attnlab.errors import AttnlabError

BY_PATH = ("open", "unlink", "remove", "mkdir", "rmdir", "truncate", "replace", "rename")
BY_HANDLE = ("fsync", "write", "pwrite", "ftruncate")
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOENT)


Choice = Callable[[int, str], bool]  # whether an operation, of a number and in words, is to fail


class Disk:
    """Counts the operations below `root`. Each that is chosen fails in two processes of its own, in one for good.

    Files that are there at the start keep their inodes; nothing may write to them.
    """

    def __init__(self, root: Path, chosen: Choice) -> None:
        self.root, self.chosen = str(root), chosen
        self.given = {str(path) for path in root.rglob("*")}
        self.operations: list[str] = []
        self.at: int | None = None  # the operation that fails here, alone if `once`; none in the process that splits
        self.once = self.splitting = False

    def reach(self, what: str, path: str, name: str | None) -> None:
        """Note an operation, or refuse it; `name` is what the error says of the file."""
        if self.splitting or (path != self.root and not path.startswith(f"{self.root}/")):
            return
        place = len(self.operations)
        self.operations.append(f"{what} {path.removeprefix(self.root)}")
        if self.at is None and self.chosen(place, self.operations[place]):
            for once in (True, False):
                if self._split():
                    self.at, self.once = place, once
                    break
        if self.at is not None and (place == self.at if self.once else place >= self.at):
            raise OSError(self.number, os.strerror(self.number), name)

    @property
    def number(self) -> int:
        """The error."""
        assert self.at is not None
        return ERRORS[self.at % len(ERRORS)]

    def __str__(self) -> str:
        if self.at is None:
            return "undisturbed"
        return (
            f"{errno.errorcode[self.number]} {'once' if self.once else 'from'} at {self.at}, {self.operations[self.at]}"
        )

    def _split(self) -> bool:
        """Split into two processes; whether this is the child, which has another folder at the same path."""
        assert threading.current_thread() is threading.main_thread()
        self.splitting, aside = True, f"{self.root} aside"
        os.rename(self.root, aside)
        shutil.copytree(aside, self.root, symlinks=True, copy_function=self._copy)
        gc.freeze()  # to collect garbage in the child would copy all that both have
        if child := os.fork():
            os.waitpid(child, 0)
            shutil.rmtree(self.root)
            os.rename(aside, self.root)
        else:
            _reopen(aside, self.root)
        self.splitting = False
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


def ended_badly(work: Callable[[], object], *, exit_codes: Collection[int], told: str = "") -> str:
    """What is wrong with how some work ends: it may end well, or in one line, with `told` and one of the exit codes."""
    try:
        work()
    except AttnlabError as error:
        if "\n" in str(error) or told not in str(error) or error.exit_code not in exit_codes:
            return f"{error.exit_code}: {error}"
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Troubles(NamedTuple):
    """How many operations some work makes, how many errors were injected, how many different folders they left, and
    what is wrong."""

    operations: int
    injected: int
    folders: int
    wrong: list[str]

    def __str__(self) -> str:
        good = f"{self.injected - len(self.wrong)} of {self.injected} injected errors"
        return f"{good} ({self.folders} different folders left) into {self.operations} operations"


def troubles(
    root: Path, fails: Callable[[], str], goes_on: Callable[[], str], chosen: Choice = lambda *_: True
) -> Troubles:
    """Have every operation below a folder fail that `fails` makes, or those that are chosen: once, and for good.

    `fails` does the work while the disk fails, in a process that splits at each operation; `goes_on` does it again once
    the disk is mended: a command of its own, which has nothing but the folder to go by, so that it is asked once of all
    cases that leave the same files. Both say what is wrong, or nothing.
    """
    verdicts, answers = (root.with_name(f"{root.name} {what}") for what in ("verdicts", "answers"))
    answers.mkdir()
    trunk = os.fork()
    if not trunk:
        disk = Disk(root, chosen)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                with failing(disk):
                    wrong = fails()
                wrong = wrong or _answer(answers / _state(root), goes_on)
        except BaseException:
            wrong = traceback.format_exc()
        with open(verdicts, "a") as file:  # of each process a line
            ours = disk.operations if disk.at is None else None
            file.write(json.dumps([f"{disk}: {wrong}" if wrong else "", ours]) + "\n")
        os._exit(0)
    os.waitpid(trunk, 0)
    lines = [json.loads(line) for line in verdicts.read_text().splitlines()]
    (operations,) = (ours for _, ours in lines if ours is not None)
    injected = 2 * sum(chosen(place, operation) for place, operation in enumerate(operations))
    assert len(lines) == injected + 1 > 1, "a process ended before it could say what is wrong"
    return Troubles(len(operations), injected, len(list(answers.iterdir())), [wrong for wrong, _ in lines if wrong])


def drawn(n: int | None, seed: str, below: int) -> Choice:
    """Some operations, drawn at random from the first so many; or all."""
    places = range(sys.maxsize) if n is None else Random(seed).sample(range(below), n)
    return lambda place, _: place in places


def _answer(path: Path, ask: Callable[[], str]) -> str:
    if not path.exists():
        path.write_text(ask())
    return path.read_text()


def _state(root: Path) -> str:
    """A hash of all that lies below a folder."""
    content = sha256()
    for path in sorted(root.rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        content.update(f"{path.relative_to(root)}\0{path.is_dir()}\0{len(data)}\0".encode() + data)
    return content.hexdigest()
