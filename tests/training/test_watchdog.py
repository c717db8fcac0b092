"""Who watches over the processes of a run."""

import json
import socket
import time
from collections.abc import Iterator

import pytest
import torch.distributed as dist
from tests.limits import HANG

from attnlab.errors import AttnlabError
from attnlab.machine.environment import Processes
from attnlab.training import process_group
from attnlab.training.stop import StopRequest
from attnlab.training.watchdog import EVERY, Lost, Watchdog


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.TCPStore:
    """Where the processes of a run leave word."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


@pytest.fixture
def watchdog(store: dist.TCPStore) -> Iterator[Watchdog]:
    """That of the first of two processes, whose second one is not there."""
    watchdog = Watchdog(Processes(per_node=2, launched=True), {}, StopRequest(), seconds=60)
    yield watchdog
    watchdog.close()


def test_lost(store: dist.TCPStore, watchdog: Watchdog) -> None:
    """What another process left word of is told by the first, in one line, with that one's exit code."""
    store.set("attnlab/0/error/1", json.dumps(["failed (no more room)", 2]))
    lost = watchdog.lost(0)
    assert lost == Lost(1, "failed (no more room)", 2, noted=True)
    assert lost.line == "process 1 failed (no more room), which ends the others; the same command continues"
    assert watchdog.speaks(lost) and not watchdog.speaks(Lost(0, "failed (itself)", 2, noted=True))


def test_gone(store: dist.TCPStore, watchdog: Watchdog) -> None:
    """Who gives no sign of life is gone; who left because another ended is not."""
    lost = watchdog.lost(0)
    assert lost is not None and (lost.rank, lost.message, lost.code) == (1, "is gone after step 0", 1)
    store.set("attnlab/0/left/1", "")
    assert watchdog.lost(0) is None


def test_noted_stays(store: dist.TCPStore, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one left word of is known when the store has gone with it, as on a machine that is slow to tell."""
    store.set("attnlab/0/error/1", json.dumps(["failed (no more room)", 2]))
    end = time.monotonic() + HANG
    while not watchdog.errors and time.monotonic() < end:  # until its thread has looked
        time.sleep(EVERY / 5)
    monkeypatch.setattr(watchdog, "_get", lambda key: None)
    assert watchdog.lost(0) == Lost(1, "failed (no more room)", 2, noted=True)


@pytest.mark.parametrize(("rank", "why"), [(0, "EADDRINUSE"), (1, "timed out")])
def test_nobody_to_meet(rank: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that another program has, or one where nobody is, ends in one line that says where they were to meet."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if rank:
            taken.close()
        monkeypatch.setattr(process_group, "GRACE", 0.2)
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))
        here = Processes(rank, rank, per_node=2, launched=True)
        with (
            pytest.raises(AttnlabError) as error,
            process_group.joined(here, StopRequest(), accelerator="cpu", minutes=0.01),
        ):
            pass
    meeting = f"(MASTER_ADDR=127.0.0.1, MASTER_PORT={port})"
    assert str(error.value).startswith(f"process {rank} of 2 did not meet the others {meeting}: ")
    assert why in str(error.value) and "\n" not in str(error.value)
