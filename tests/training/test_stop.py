"""Signals as requests to stop: noted at first, obeyed at the second time, and given back in the end."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.limits import HANG

from attnlab.training.stop import StopRequest, stop_request

BOTH = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number, _ in BOTH]


class Ended(Exception):
    """What SIGTERM does here in place of ending pytest."""


def end(number: int, frame: Any) -> None:
    raise Ended


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Whatever a test does, it cannot end pytest, which gets its own handlers back."""
    before = handlers()
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
    yield
    for (number, _), handler in zip(BOTH, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), BOTH)
def test_first_signal(number: signal.Signals, code: int) -> None:
    """The first signal is a wish with its exit code."""
    with stop_request() as stop:
        assert stop.signal is None
        signal.raise_signal(number)
        assert stop.signal == number
        assert stop.exit_code == code


@pytest.mark.parametrize(("number", "usual"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Ended)])
def test_a_second_signal_gets_through(number: signal.Signals, usual: type[BaseException]) -> None:
    with stop_request() as stop:
        signal.raise_signal(number)
        with pytest.raises(usual):
            signal.raise_signal(number)
        assert stop.signal == number


def test_second_sigterm() -> None:
    """A second SIGTERM gets through to the handler that was there."""
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    with stop_request():
        signal.raise_signal(signal.SIGTERM)
        assert came == []
        signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_two_signals(number: signal.Signals) -> None:
    """Two signals end a process that does not listen."""
    script = f"""
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
from attnlab.training.stop import stop_request
with stop_request() as stop:
    os.kill(os.getpid(), {number.value})
    print(stop.exit_code, flush=True)
    os.kill(os.getpid(), {number.value})
    time.sleep(7200)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG, check=False)
    assert done.stdout == f"{dict(BOTH)[number]}\n"
    assert done.returncode == -number


def test_another_signal() -> None:
    """A second signal of another kind is a request to stop again."""
    with stop_request() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.exit_code == 143


def test_handlers_put_back() -> None:
    """The handlers are put back however the block ends."""
    before = handlers()
    with stop_request() as stop:
        assert handlers() != before
        stop.install()
    assert handlers() == before
    with pytest.raises(ValueError, match="trouble"), stop_request():
        raise ValueError("trouble")
    assert handlers() == before


def test_handlers_in_between() -> None:
    """Handlers that somebody put in between are taken over and do not stay."""
    before, came = handlers(), []
    with stop_request() as stop:
        for number, _ in BOTH:
            signal.signal(number, lambda number, frame: came.append(number))
        stop.install()
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM and came == []
    assert handlers() == before


def test_request_stays() -> None:
    """A request to stop that was noted is still there afterwards."""
    with stop_request() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.exit_code == 143


def test_in_another_thread_nothing_happens() -> None:
    before, seen = handlers(), []

    def work() -> None:
        with stop_request() as stop:
            stop.install()
            seen.append((handlers() == before, stop.signal))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, None)]
    assert handlers() == before


def test_without_a_signal_there_is_no_exit_code() -> None:
    with pytest.raises(AssertionError):
        _ = StopRequest().exit_code
