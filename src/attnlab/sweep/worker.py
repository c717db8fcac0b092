"""The process that does the jobs of a sweep, one after the other, with torch and Lightning imported once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from attnlab.machine.environment import alone, open_streams
from attnlab.sweep.answers import Answer, answer_of
from attnlab.sweep.pool import PATIENCE


def work(descriptor: int) -> None:
    """Do tasks until the command that started this process ends or cuts the link."""
    link = Connection(descriptor)
    tasks: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(link, tasks), daemon=True).start()
    open_streams()
    with alone():
        from attnlab.config.code import note_sources
        from attnlab.sweep.worker_tasks import task_of  # torch and Lightning: seconds, while the command is composing

    note_sources()  # a file may change before the first task comes
    while True:
        kind, content = tasks.get()
        try:
            answer = answered(task_of(kind), content, lambda *progress: link.send(("progress", progress)))
        except KeyboardInterrupt:
            answer = ("stopped", "stopped by Ctrl-C")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever a job has made of it
        try:
            link.send(answer)
        except OSError:
            os._exit(0)  # nobody listens any more


def _listen(link: Connection, tasks: "SimpleQueue[tuple[str, Any]]") -> None:
    """Pass on what there is to do; when nobody is there any more, let the job reach the end of its step and end."""
    try:
        while True:
            tasks.put(link.recv())
    except (EOFError, OSError):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # a run takes this as a request, and anything else ends here
    threading.Event().wait(PATIENCE)
    os._exit(143)


def answered(do: Any, content: Any, report: Any) -> Answer:
    """What became of a task, or of several that came together; what it prints goes to its log, if it has one."""
    if isinstance(content, list):
        return "done", do(content, report)
    log = content.get("log")
    try:
        with _written_to(log):
            return answer_of(lambda: do(content, report), logged=log is not None)
    except OSError as error:
        return "failed", f"cannot write {log} ({error.strerror})"


@contextmanager
def _written_to(log: str | None) -> Iterator[None]:
    """Send all that this process prints, libraries in C included, to the end of a file."""
    if log is None:
        yield
        return
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    usual = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        for descriptor in (1, 2):
            os.dup2(file, descriptor)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # a full disk; what is left is written to nowhere
                stream.flush()
        for descriptor, old in zip((1, 2), usual, strict=True):
            os.dup2(old, descriptor)
        for descriptor in (*usual, file):
            os.close(descriptor)
