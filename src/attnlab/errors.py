"""What can go wrong, and the exit code each kind of trouble ends with."""

from __future__ import annotations


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
