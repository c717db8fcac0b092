"""Sweeps that other commands ask for."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attnlab.errors import Stopped, UsageError
from attnlab.machine.signals import EXIT_CODES
from attnlab.sweep.command import train_design


def test_refused_sweep(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its design is a file that can be typed again, and what is wrong with it is told by who knows it."""
    design = {"design": "grid", "settings": {"model.n_head": 2}, "axes": {"attention": ["gqa", "mqa"]}, "seeds": [0]}
    with pytest.raises(UsageError, match="refused the sweep"):
        train_design(tmp_path / "e", "two", design, [])
    out, err = capfd.readouterr()
    assert out.startswith("attnlab train -m --config-dir ") and "+sweep=two" in out
    assert "model.n_head" in err and "Traceback" not in err
    assert not list((tmp_path / "e").glob("*/seed_0"))


@pytest.fixture(autouse=True)
def _heeded() -> Iterator[None]:
    """No signal is ignored, as HUP is under nohup, by the commands that tests start, too."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in EXIT_CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


SLOW_TO_STOP = """#!/bin/sh
trap 'sleep 0.5; echo saved > {folder}/saved; exit 143' TERM
echo $$ > {folder}/begun
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_ends_the_sweep_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Whichever signal reaches the command alone, as by `kill`, its sweep saves first and neither runs on."""
    (tmp_path / "python").write_text(SLOW_TO_STOP.format(folder=tmp_path))
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    def send() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(Stopped, match="same command goes on") as stopped:
        train_design(tmp_path / "e", "two", {}, [])
    assert stopped.value.exit_code == EXIT_CODES[signal.Signals(number)]
    assert (tmp_path / "saved").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "begun").read_text()), 0)


@pytest.mark.parametrize(("end", "code"), [("kill -TERM $$", 143), ("kill -HUP $$", 129), ("exit 129", 129)])
def test_a_sweep_that_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, code: int) -> None:
    """A signal that reached the sweep alone, before or after it could answer, is a stop, not a failure."""
    (tmp_path / "python").write_text(f"#!/bin/sh\n{end}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(Stopped) as stopped:
        train_design(tmp_path / "e", "two", {}, [])
    assert stopped.value.exit_code == code
