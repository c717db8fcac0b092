"""Who watches over the processes of a run."""

import json

import pytest
import torch.distributed as dist

from attnlab.machine.environment import Processes
from attnlab.training.stop import StopRequest
from attnlab.training.watchdog import Lost, Watchdog


def test_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process left word of is told by the first, in one line, with that one's exit code."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    watchdog = Watchdog(Processes(per_node=2, launched=True), {}, StopRequest(), seconds=60)
    try:
        store.set("attnlab/0/error/1", json.dumps(["failed (no more room)", 2]))
        lost = watchdog.lost(0)
        assert lost == Lost(1, "failed (no more room)", 2, noted=True)
        assert lost.line == "process 1 failed (no more room), which ends the others; the same command continues"
        assert watchdog.speaks(lost) and not watchdog.speaks(Lost(0, "failed (itself)", 2, noted=True))
    finally:
        watchdog.close()


def test_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives no sign of life is gone; who does is not."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    watchdog = Watchdog(Processes(per_node=2, launched=True), {}, StopRequest(), seconds=60)
    try:
        lost = watchdog.lost(0)
        assert lost is not None and (lost.rank, lost.message, lost.code) == (1, "is gone after step 0", 1)
        store.set("attnlab/0/left/1", "")
        assert watchdog.lost(0) is None
    finally:
        watchdog.close()
