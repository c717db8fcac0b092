"""What can go wrong, the exit code each kind of trouble ends with, and how a value is named in its line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class AttnlabError(Exception):
    """Something attnlab understands: shown to the user as one line, without a traceback."""

    exit_code = 1


class UsageError(AttnlabError, ValueError):
    """A setting, a file or an argument that cannot work: names the key, the value and what is allowed."""

    exit_code = 2


class FileFailure(AttnlabError):
    """The machine refused to read or write a file: the disk is full, the folder read-only or gone."""


class Locked(AttnlabError):
    """Another process is working in this run's folder."""

    exit_code = 3


class Diverged(AttnlabError):
    """The loss or a gradient stopped being a finite number; the update was not made."""

    exit_code = 4


class NoUsableCheckpoint(AttnlabError):
    """A run should be continued, but none of its checkpoints is whole."""

    exit_code = 5


class Stopped(AttnlabError):
    """The run was asked to stop and can be continued; the code is 129 (SIGHUP), 130 (Ctrl-C) or 143 (SIGTERM)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LostProcess(AttnlabError):
    """Another process of the run has ended, with this code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def shown(value: Any) -> str:
    """A value as it is written in a config."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def nearest(word: str, among: Iterable[str]) -> str:
    """ " Did you mean ...?", or nothing if nothing is near."""
    matches = difflib.get_close_matches(word, list(among), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""
