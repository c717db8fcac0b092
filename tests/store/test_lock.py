"""One owner per folder, for as long as the owner lives."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.limits import HANG

from attnlab.errors import FileFailure, Locked
from attnlab.store.run_folder import RunFolder

OWNER = """
import sys
from pathlib import Path
from attnlab.store.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("mine", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_owner(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that owns the folder until its input ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "mine\n"
            yield process
        finally:
            process.kill()


def test_second_owner(tmp_path: Path) -> None:
    """A second owner is refused with the first one's number."""
    with another_owner(tmp_path) as process:
        with pytest.raises(
            Locked, match=rf"^{re.escape(str(tmp_path))} is in use by process {process.pid}; wait for it"
        ) as refusal:
            with RunFolder(tmp_path).lock():
                raise AssertionError("two owners")
        assert refusal.value.exit_code == 3
        assert RunFolder(tmp_path).lock_file.read_text() == f"{process.pid}\n", (
            "the refused one has not written into it"
        )


def test_an_owner_that_ends_frees_the_folder(tmp_path: Path) -> None:
    with another_owner(tmp_path) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(HANG) == 0
        with RunFolder(tmp_path).lock():
            assert RunFolder(tmp_path).lock_file.read_text() == f"{os.getpid()}\n"


def test_an_owner_that_is_killed_frees_the_folder(tmp_path: Path) -> None:
    with another_owner(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait(HANG) == -signal.SIGKILL
        with RunFolder(tmp_path).lock():
            pass


def test_same_process(tmp_path: Path) -> None:
    """The same process can take it again but not twice."""
    for _ in range(3):
        with RunFolder(tmp_path).lock():
            with pytest.raises(Locked, match=f"in use by process {os.getpid()}"), RunFolder(tmp_path).lock():
                pass


def test_a_block_that_raises_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trouble"), RunFolder(tmp_path).lock():
        raise ValueError("trouble")
    with RunFolder(tmp_path).lock():
        pass


def test_child_does_not_own(tmp_path: Path) -> None:
    """A child of the owner does not hold the folder."""
    with RunFolder(tmp_path).lock():
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        time.sleep(0.05)
        with RunFolder(tmp_path).lock():
            assert child.poll() is None
    finally:
        child.communicate()


def test_a_longer_number_leaves_nothing_behind(tmp_path: Path) -> None:
    RunFolder(tmp_path).lock_file.write_text("99999999999999\n")
    with RunFolder(tmp_path).lock():
        assert RunFolder(tmp_path).lock_file.read_text() == f"{os.getpid()}\n"


def test_lock_makes_folder(tmp_path: Path) -> None:
    """The folder is made and two folders are two locks."""
    with RunFolder(tmp_path / "a" / "b").lock(), RunFolder(tmp_path / "c").lock():
        assert (tmp_path / "a" / "b").is_dir()


def test_unmakeable_folder(tmp_path: Path) -> None:
    """A folder that cannot be made is refused by key."""
    (tmp_path / "file").write_text("")
    with pytest.raises(FileFailure, match=r"cannot write .*file/run \(Not a directory\); paths\.runs says"):
        with RunFolder(tmp_path / "file" / "run").lock():
            pass
