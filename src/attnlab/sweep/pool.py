"""Warm worker processes: each has imported torch and Lightning once and does one task after the other.

This side imports no torch. A worker that dies takes one task with it, and another is started in its place.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NamedTuple

# The worker sees what the command sees: the same packages, and the words that were typed.
START = """
import sys
sys.path[:], sys.argv[:] = {path!r}, {argv!r}
from attnlab.sweep.worker import work
work({descriptor})
"""
PATIENCE = 30.0  # seconds that a worker gets to reach the end of its step when it is asked to stop


class Event(NamedTuple):
    """Something that a task says (`kind` as the worker calls it), or that its worker died (`kind` "died")."""

    task: int
    kind: str
    content: Any


class Worker:
    """One process, the link to it, and the task it is at."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.link, theirs = Pipe()
        start = START.format(path=sys.path, argv=sys.argv, descriptor=theirs.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # what a job prints goes to its log
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl-C reaches the command alone, which asks its workers to stop
            env={**os.environ, **environment},
        )
        theirs.close()
        self.task: int | None = None

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self.link.close()


class Pool:
    """Up to `size` workers. Tasks are numbered by whoever gives them; `events` tells what becomes of them."""

    def __init__(self, size: int, environments: Sequence[Mapping[str, str]] = ({},)) -> None:
        self.size, self.environments = size, environments
        self.workers: list[Worker | None] = [None] * size

    def warm(self, n: int) -> None:
        """Start workers before there is anything to do: to import torch takes seconds."""
        for slot in range(min(n, self.size)):
            self._worker(slot)

    def _worker(self, slot: int) -> Worker:
        worker = self.workers[slot]
        if worker is None:
            worker = self.workers[slot] = Worker(self.environments[slot % len(self.environments)])
        return worker

    def shrink(self, size: int) -> None:
        """Go on with fewer workers; those above must have nothing to do."""
        surplus, self.workers = self.workers[size:], self.workers[:size]
        self.size = len(self.workers)
        for worker in surplus:
            if worker is not None:
                worker.kill()

    @property
    def busy(self) -> int:
        """How many tasks are being worked at."""
        return sum(worker is not None and worker.task is not None for worker in self.workers)

    @property
    def free(self) -> bool:
        """Whether a task could be given."""
        return self.busy < self.size

    def give(self, task: int, kind: str, content: Any) -> None:
        """Have a free worker do something (see `attnlab.sweep.worker.TASKS`)."""
        slots = sorted(range(self.size), key=lambda slot: self.workers[slot] is None)  # warm ones first
        for slot in slots:
            worker = self._worker(slot)
            if worker.task is not None:
                continue
            try:
                worker.link.send((kind, content))
            except OSError:  # it has died while it had nothing to do
                worker.kill()
                self.workers[slot] = None
                worker = self._worker(slot)
                worker.link.send((kind, content))
            worker.task = task
            return
        raise AssertionError("no worker is free")

    def events(self, seconds: float) -> Iterator[Event]:
        """What tasks have to say, waiting at most so long for the first word."""
        links: dict[Any, int] = {w.link: slot for slot, w in enumerate(self.workers) if w is not None}
        for link in wait(list(links), timeout=seconds):
            slot = links[link]
            worker = self.workers[slot]
            assert worker is not None
            yield from self._heard(slot, worker)

    def _heard(self, slot: int, worker: Worker) -> Iterator[Event]:
        link: Connection = worker.link
        try:
            while worker.task is not None and link.poll():
                task = worker.task
                kind, content = link.recv()
                if kind != "progress":
                    worker.task = None
                yield Event(task, kind, content)
            if worker.task is not None or not link.poll():
                return
            link.recv()  # nothing is said without a task, so this is the end
        except (EOFError, OSError):
            pass
        link.close()
        task_lost, self.workers[slot] = worker.task, None
        code = worker.process.wait()
        if task_lost is not None:
            yield Event(task_lost, "died", code)

    def stop(self) -> None:
        """Ask every worker to stop at the end of its step. What they then say comes as events."""
        for worker in self.workers:
            if worker is not None and worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self.workers:
            if worker is not None:
                worker.kill()
        self.workers = [None] * self.size


def how_it_died(code: int) -> str:
    """The end of a process in words."""
    if code >= 0:
        return f"its process ended with exit code {code} in the middle of the run"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    memory = "; the system does so when memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{memory}"
