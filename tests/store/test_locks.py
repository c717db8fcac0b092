"""Files that one process at a time owns, and what is made once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from attnlab.errors import FileFailure
from attnlab.store.locks import exclusive, is_owned, lock_of, make_once


def test_exclusive(tmp_path: Path) -> None:
    """A second owner is refused while the first lives, and the file can be asked without being made."""
    path = tmp_path / ".lock"
    assert not is_owned(path) and not path.exists()
    with exclusive(path):
        assert is_owned(path)
        with pytest.raises(BlockingIOError), exclusive(path, wait=False):
            pass
    assert not is_owned(path)


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    """A folder of somebody else's may have one that leads elsewhere: nothing is made there."""
    path, elsewhere = tmp_path / ".lock", tmp_path / "elsewhere"
    path.symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic"), exclusive(path):
        pass
    assert not elsewhere.exists() and not is_owned(path)


def test_make_once(tmp_path: Path) -> None:
    """Of several that ask at once one makes it, and all get what it made."""
    path, calls = tmp_path / "new" / "measured.json", list[int]()

    def make() -> dict[str, int]:
        calls.append(len(calls))
        return {"call": len(calls)}

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: make_once(path, make, key="k"), range(8)))
    assert results == [{"call": 1}] * 8 and calls == [0]
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".measured.lock", "measured.json"]
    assert lock_of(path).name == ".measured.lock"


def test_make_once_refused(tmp_path: Path) -> None:
    """What is no JSON is a ValueError; what cannot be written names its setting."""
    path = tmp_path / "measured.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="Expecting property name"):
        make_once(path, dict, key="k")
    with pytest.raises(FileFailure, match="k says where it goes"):
        make_once(path / "below" / "file.json", dict, key="k")
