"""Files that are fetched once and kept: checked before they are used."""

import hashlib
import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit

from attnlab.errors import UsageError
from attnlab.store.files import read_file, write_atomically

TIMEOUT_SECONDS = 10.0  # for one answer of the server
DEADLINE_SECONDS = 120.0  # for the whole file


_offline: ContextVar[bool] = ContextVar("offline", default=False)


@contextmanager
def offline() -> Iterator[None]:
    """Within the block nothing is fetched: what is not here is refused."""
    token = _offline.set(True)
    try:
        yield
    finally:
        _offline.reset(token)


def is_offline() -> bool:
    """Whether nothing may be fetched."""
    return _offline.get()


def sha256_of(data: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The same of a file, which is not held in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_cached(path: Path, sha256: str) -> bytes | None:
    """The bytes of a file if it is there and has this SHA-256, else None."""
    try:
        data = read_file(path, most=None)
    except (OSError, ValueError):
        return None
    return data if sha256_of(data) == sha256 else None


def fetch(url: str, path: Path, sha256: str, *, who: str, otherwise: str, key: str = "paths.cache") -> bytes:
    """The file with this SHA-256: from `path` if it is there, else from `url`, and then kept at `path`.

    `who` is the setting that wants it and `otherwise` what else the user can do: both go into the error
    message.
    """
    data = read_cached(path, sha256)
    if data is not None:
        return data
    remedy = f"put the file at {path} (sha256 {sha256}) or {otherwise}"
    if os.path.isfile(path):  # unlike Path.is_file it never raises, whatever the name
        remedy += "; the file that is there now has another sha256"
    if _offline.get():
        raise UsageError(f"{who}: nothing is fetched to look at a finished run; {remedy}")
    try:
        data = _download(url)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise UsageError(f"{who}: could not fetch {_shown(url)} ({reason}); {remedy}") from error
    digest = sha256_of(data)
    if digest != sha256:
        raise UsageError(f"{who}: {_shown(url)} answered with {len(data)} other bytes (sha256 {digest}); {remedy}")
    write_atomically(path, data, key=key)
    return data


def _shown(url: str) -> str:
    """An address without what may be a secret in it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _download(url: str) -> bytes:
    started, parts = time.monotonic(), []
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        while part := answer.read(1 << 20):
            parts.append(part)
            if time.monotonic() - started > DEADLINE_SECONDS:
                raise TimeoutError(f"no end after {DEADLINE_SECONDS:g} seconds")
    return b"".join(parts)
