"""Warm worker processes: each has imported torch and Lightning once and does one task after the other.

This side imports no torch. A worker that dies takes one task with it, and another is started in its place.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
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
LONGEST_LOOK = 1.0  # seconds that count at most between two looks at a worker: the command, too, may have been stopped


class Event(NamedTuple):
    """Something that a task says (`kind` as the worker calls it), that its worker died, or that it hung and was killed
    (`kind` "died" or "hung")."""

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
        self._pulse: int | None = None
        self._looked = self._idle = 0.0

    def begin(self, task: int) -> None:
        """It has something to do."""
        self.task, self._pulse, self._looked, self._idle = task, None, time.monotonic(), 0.0

    def idle(self) -> float:
        """For how many seconds it has done nothing about its task: it took no time of any processor.

        A process that was stopped, waits for itself or for a disk that is gone stands still; one that is merely slow,
        on a busy machine, moves. Needs /proc; elsewhere nothing is noticed.
        """
        now, pulse = time.monotonic(), processor_time(self.process.pid)
        self._idle += min(now - self._looked, LONGEST_LOOK)
        self._looked = now
        if pulse is None or pulse != self._pulse:
            self._pulse, self._idle = pulse, 0.0
        return self._idle

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):  # a process that waits for a dead disk cannot even be killed
            self.process.wait(PATIENCE)
        self.link.close()


class Pool:
    """Up to `size` workers. Tasks are numbered by whoever gives them; `events` tells what becomes of them.

    A worker that does nothing about its task for `patience` seconds is killed; None: it may take as long as it likes.
    """

    def __init__(
        self, size: int, environments: Sequence[Mapping[str, str]] = ({},), *, patience: float | None = None
    ) -> None:
        self.size, self.environments, self.patience = size, environments, patience
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
        """Have a free worker do something (see `attnlab.sweep.worker_tasks.task_of`)."""
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
            worker.begin(task)
            return
        raise AssertionError("no worker is free")

    def events(self, seconds: float) -> Iterator[Event]:
        """What tasks have to say, waiting at most so long for the first word."""
        links: dict[Any, int] = {w.link: slot for slot, w in enumerate(self.workers) if w is not None}
        for link in wait(list(links), timeout=seconds):
            slot = links[link]
            worker = self.workers[slot]
            assert worker is not None
            yield from self._events_of(slot, worker)
        for slot, worker in enumerate(self.workers):
            if worker is None or worker.task is None or self.patience is None or worker.idle() < self.patience:
                continue
            self.workers[slot] = None
            worker.kill()
            yield Event(worker.task, "hung", f"its process did nothing for {self.patience:g} s and was ended")

    def _events_of(self, slot: int, worker: Worker) -> Iterator[Event]:
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


def processor_time(pid: int) -> int | None:
    """The ticks that a process has spent on processors; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # what stands before may hold blanks
    except OSError:
        return None
    return int(fields[11]) + int(fields[12])


def how_it_died(code: int) -> str:
    """The end of a process in words."""
    if code >= 0:
        return f"its process ended with exit code {code} in the middle of the run"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    memory = "; the system does so when memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{memory}"
