"""A worker that stands still is noticed; one that is merely slow is not."""

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.sweep.crashing_runs import entries, prepare, started, wait_for

from attnlab.sweep import pool
from attnlab.sweep.pool import Worker, processor_time


def test_idle_is_what_takes_no_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds count while no ticks come, at most one between two looks, and not from before the last tick."""
    now, ticks = [0.0], [5]
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(pool, "processor_time", lambda pid: ticks[0])
    worker: Any = object.__new__(Worker)
    worker.process = SimpleNamespace(pid=1)
    worker.begin(0)
    idle = []
    for second, tick in ((0.0, 5), (0.5, 5), (1.0, 5), (60.0, 5), (60.5, 6), (61.0, 6), (61.2, 6)):
        now[0], ticks[0] = second, tick
        idle.append(round(worker.idle(), 6))
    assert idle == [0.0, 0.5, 1.0, 2.0, 0.0, 0.5, 0.7]


def test_time_on_processors_of_a_process() -> None:
    """It grows with work, stands still in a stopped process, and is unknown of one that is gone."""
    before = processor_time(os.getpid())
    while processor_time(os.getpid()) == before:
        pass
    child = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        wait_for(lambda: processor_time(child.pid) or 0)
        child.send_signal(signal.SIGSTOP)
        wait_for(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        assert len({processor_time(child.pid) for _ in range(1000)}) == 1
    finally:
        child.kill()
        child.wait()
    assert processor_time(child.pid) is None


@pytest.mark.slow
def test_stopped_worker_fails_its_run(tmp_path: Path) -> None:
    """A worker that is stopped and not dead is ended; its run has failed with the reason, and the others are done."""
    prepare(tmp_path)
    words = ["attention=multi_head", "seed=0,1", "hydra.launcher.n_jobs=1", "hydra.launcher.patience=20"]
    sweep = started(tmp_path, *words, "trainer.val_every=1000", "trainer.checkpoint_every=20", steps=600)
    wait_for(lambda: list(tmp_path.glob("runs/default/*/seed_0/checkpoints/*.ckpt")))
    children = subprocess.run(["pgrep", "-P", str(sweep.pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(children.split()[0]), signal.SIGSTOP)
    _, complaints = sweep.communicate(timeout=1800)
    assert sweep.returncode == 1, complaints
    assert [entry["status"] for entry in entries(tmp_path)] == ["failed", "finished"]
    assert "did nothing for 20 s and was ended" in entries(tmp_path)[0]["reason"]
    assert "1 of 2 jobs failed" in complaints and complaints.count("\n") == 1
