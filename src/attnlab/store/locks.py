"""Files that one process at a time owns: the kernel frees them when it ends, however it ends."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnlab.store.files import parse_json, read_file, tidy, write_atomically, writing


@contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Own a lock file, made if it is not there, while the block runs; gives its handle.

    Raises BlockingIOError where another owner is not to be waited for, and OSError for a link: a folder of somebody
    else's may have one that leads elsewhere.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield handle
    finally:
        os.close(handle)


def lock_of(path: Path) -> Path:
    """The lock file of those who write a file."""
    return path.with_name(f".{path.stem}.lock")


def make_once(path: Path, make: Callable[[], Any], *, key: str) -> Any:
    """What a JSON file holds, which is made if it is not there: of several processes that need it at once, by one.

    Raises a ValueError if it holds no JSON; `key` is the setting to name if it cannot be written.
    """
    with writing(path, key=key):
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(lock_of(path)):
            if not path.exists():
                tidy(path.parent, path.name)
                write_atomically(path, json.dumps(make()).encode(), key=key)
            return parse_json(read_file(path))


def make_entry_once(path: Path, name: str, make: Callable[[], Any], *, key: str) -> Any:
    """What a JSON file holds under a name, made as in `make_once`; what it holds under others stays."""
    with writing(path, key=key):
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(lock_of(path)):
            content = parse_json(read_file(path)) if path.exists() else {}
            if not isinstance(content, dict):
                raise ValueError("it holds no settings by name")
            if name not in content:
                tidy(path.parent, path.name)
                content[name] = make()
                write_atomically(path, (json.dumps(content, indent=2) + "\n").encode(), key=key)
            return content[name]


def is_owned(path: Path) -> bool:
    """Whether a process owns a lock file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
