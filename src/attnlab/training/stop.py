"""SIGHUP, Ctrl-C and SIGTERM as requests, handled at the next step boundary, where everything can be saved."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from attnlab.errors import Stopped
from attnlab.machine.signals import EXIT_CODES, ignored


class StopRequest:
    """Whether a signal has come. A second one of the same kind gets through to its usual handler.

    One that comes within `echo` seconds of the first counts as the first: a launcher passes on what the terminal has
    sent to each of its processes.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.echo, self._since = 0.0, 0.0
        self._usual: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """What the process ends with: 129 after SIGHUP, 130 after Ctrl-C, 143 after SIGTERM."""
        assert self.signal is not None
        return EXIT_CODES[signal.Signals(self.signal)]

    def obey(self, how: str) -> None:
        """Raise Stopped if a signal has come."""
        if self.signal is not None:
            raise Stopped(f"{how}; the same command continues", self.exit_code)

    def install(self) -> None:
        """Take over the signals; can be repeated, for Lightning takes them too when it starts."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may; whoever runs us elsewhere handles signals there
        for number in EXIT_CODES:
            current = signal.getsignal(number)
            if current != self._note and not ignored(number):
                self._usual.setdefault(number, current)
                signal.signal(number, self._note)

    def remove(self) -> None:
        """Give the signals back."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._usual.items():
                signal.signal(number, handler)
        self._usual = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal == number:
            if time.monotonic() - self._since < self.echo:
                return
            signal.signal(number, self._usual.get(number, signal.SIG_DFL))
            signal.raise_signal(number)
        self.signal, self._since = number, time.monotonic()


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Note the signals instead of obeying at once, while the block runs."""
    stop = StopRequest()
    stop.install()
    try:
        yield stop
    finally:
        stop.remove()
