"""SIGHUP, Ctrl-C and SIGTERM, from the first line of a command to its last: one line, an exit code, no half file.

While it runs, training takes them as requests to stop (`attnlab.training.stop`). Imports nothing that takes time.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_CODES = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143}

silent = False  # in all processes of a run but the first
_busy = 0  # how many blocks that must not be interrupted are open
_pending: int | None = None  # the signal that came meanwhile


def name_of(number: int) -> str:
    """What people call a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def ignored(number: int) -> bool:
    """Whether somebody wants a command to outlive its terminal, as nohup does."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def end_at_signals() -> None:
    """From now on each of the signals ends the process at once, with a line that says so."""
    for number in EXIT_CODES:
        if not ignored(number):
            signal.signal(number, _end_when_free)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a signal wait until the block is done: a file that is being written would leave a temporary one behind."""
    global _busy
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread
        return
    _busy += 1
    try:
        yield
    finally:
        _busy -= 1
        if _pending is not None and not _busy:
            _end(_pending)


def _end_when_free(number: int, frame: FrameType | None) -> None:
    global _pending
    if _busy:
        _pending = number
    else:
        _end(number)


def _end(number: int) -> None:
    # No exception: raised at a random line, it may be swallowed by what runs there.
    with suppress(OSError, ValueError, RuntimeError, AttributeError):  # nobody reads it, or it is just being written
        sys.stdout.flush()
    with suppress(OSError):
        if not silent:
            os.write(2, f"error: stopped by {name_of(number)}; the same command goes on\n".encode())
    os._exit(EXIT_CODES[signal.Signals(number)])
