"""Signals of a command: at once, or when the file that is being written is whole."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from attnlab.machine import signals
from attnlab.machine.signals import EXIT_CODES, end_at_signals, ignored, name_of, uninterrupted


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The codes that the process would have ended with; afterwards signals do what they did."""
    codes: list[int] = []
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(signals, "_pending", None)
    for number in EXIT_CODES:  # the tests may run under nohup
        signal.signal(number, signal.SIG_DFL)
    end_at_signals()
    yield codes
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", EXIT_CODES)
def test_at_once(number: int, exits: list[int], capfd: pytest.CaptureFixture[str]) -> None:
    """The code is that of shells, 128 and the number, and one line tells what to do."""
    signal.raise_signal(number)
    assert exits == [128 + number]
    assert capfd.readouterr().err == f"error: stopped by {name_of(number)}; the same command goes on\n"


def test_waits(exits: list[int]) -> None:
    """A signal waits for the end of the outermost block."""
    with uninterrupted():
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            assert exits == []
        assert exits == []
    assert exits == [143]


def test_after_an_error(exits: list[int]) -> None:
    """A block that fails is done, too."""

    def fail() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert exits == [130]


def test_other_thread(exits: list[int]) -> None:
    """Signals come in the main thread: a block elsewhere holds none back."""
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with uninterrupted():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(10)
    signal.raise_signal(signal.SIGTERM)
    leave.set()
    thread.join()
    assert exits == [143]


def test_nohup(exits: list[int]) -> None:
    """A command that is to outlive its terminal does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert ignored(signal.SIGHUP) and not ignored(signal.SIGTERM)
    end_at_signals()
    signal.raise_signal(signal.SIGHUP)
    assert exits == []


def test_names() -> None:
    """As people call them."""
    assert [name_of(number) for number in EXIT_CODES] == ["SIGHUP", "Ctrl-C", "SIGTERM"]
