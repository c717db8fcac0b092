"""A file is there whole, or as it was before."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.limits import HANG

from attnlab.errors import FileFailure, UsageError
from attnlab.store.files import check_writable, failures, tidy, write_atomically
from attnlab.store.locks import make_once
from attnlab.store.manifest import Manifest


def test_write_leaves_one_file(tmp_path: Path) -> None:
    """A file holds what was written and nothing stands beside it."""
    path = tmp_path / "a" / "b" / "file.bin"
    for data in (b"first", b"", b"\0\xff" * 1000):
        write_atomically(path, data, key="paths.runs")
        assert path.read_bytes() == data
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("owner", "step"), [(Path, "open"), (os, "fsync"), (Path, "replace")])
def test_failed_write(owner: Any, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves the old file and no other."""

    def fails(*args: Any, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fails)
        with pytest.raises(FileFailure, match=r"^cannot write .*file \(No space left on device\); paths\.cache says"):
            write_atomically(path, b"new", key="paths.cache")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and folder are on the disk before the call returns."""
    happened: list[str] = []
    usual_fsync, usual_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        happened.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "data")
        usual_fsync(handle)

    def replace(self: Path, target: Path) -> Path:
        happened.append("rename")
        return usual_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(tmp_path / "file", b"new", key="paths.runs")
    assert happened == ["data", "rename", "folder"]


def test_killed_writer(tmp_path: Path) -> None:
    """A writer that is killed leaves the old file."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    script = """
import os, signal, sys
from pathlib import Path
from attnlab.store.files import write_atomically
Path.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), b"new" * 10000, key="paths.runs")
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=HANG, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new", key="paths.runs")
    assert path.read_bytes() == b"new", "what was left behind is in nobody's way"


def test_leftovers_are_tidied(tmp_path: Path) -> None:
    """What a write that was killed left behind goes; nothing else that begins with a dot does."""
    names = [".metrics.csv.123.0123abcd", ".step_00000001.ckpt.9.deadbeef", ".lock", ".manifest.json", "metrics.csv"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    tidy(tmp_path)
    tidy(tmp_path / "not there")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])


def test_leftovers_of_one_file(tmp_path: Path) -> None:
    """Who owns a file tidies what was left of that one: others in the folder may be being written."""
    for name in ("manifest.json", "dtype.json", "page.html"):
        (tmp_path / f".{name}.123.0123abcd").write_bytes(b"")
    Manifest(tmp_path / "manifest.json").plan([], {})
    make_once(tmp_path / "dtype.json", dict, key="paths.runs")
    assert [path.name for path in tmp_path.glob(".*.123.*")] == [".page.html.123.0123abcd"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path, size = tmp_path / "file", 1 << 16
    write_atomically(path, b"a" * size, key="paths.runs")
    writers = [threading.Thread(target=write_often, args=(path, letter * size)) for letter in (b"a", b"b", b"c")]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        data = path.read_bytes()
        assert len(data) == size
        seen.add(data[:1])
        assert data == data[:1] * size
    assert seen <= {b"a", b"b", b"c"}
    assert list(tmp_path.iterdir()) == [path]


def write_often(path: Path, data: bytes) -> None:
    for _ in range(10):
        write_atomically(path, data, key="paths.runs")


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "a" / "b"


@pytest.mark.parametrize("place", [a_file, below_a_file])
def test_a_place_that_is_no_folder_is_refused_by_key(place: Callable[[Path], Path], tmp_path: Path) -> None:
    message = rf"^paths\.runs \(.*\) cannot be written: {re.escape(str(tmp_path))}/file is not a folder$"
    with pytest.raises(UsageError, match=message):
        check_writable(place(tmp_path), key="paths.runs")
    if place is below_a_file:
        with pytest.raises(FileFailure, match=r"^cannot write .*Not a directory.*paths\.runs says where it goes;"):
            write_atomically(tmp_path / "file" / "a" / "b", b"", key="paths.runs")


def test_unwritable_folder(tmp_path: Path) -> None:
    """A folder that cannot be written into is refused by key and an attempt leaves nothing."""
    check_writable(tmp_path / "new" / "deeper", key="paths.cache")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match=r"^paths\.cache \(/proc/new\) cannot be written: .* in /proc$"):
        check_writable(Path("/proc/new"), key="paths.cache")  # not even root may


def test_looking_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "a" / "b", key="paths.runs")
    monkeypatch.chdir(tmp_path)
    check_writable(Path("relative/to/here"), key="paths.runs")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_command_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system names no file then, and it is not standard output that is missing."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileFailure, match=r"^the current folder: No such file"), failures():
        os.getcwd()
    with pytest.raises(FileFailure, match=r"^standard output: No space left"), failures():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
