"""Work on a text that several processes share: each takes a task, and the next when that is done.

They import neither torch nor the command that started them, and end when that ends, however it ends.
"""

import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from tqdm import tqdm

from attnlab.errors import AttnlabError
from attnlab.machine.environment import cores

T = TypeVar("T")
R = TypeVar("R")
MOST = 32  # processes: each holds a tokenizer and a few blocks of text
FEW_BYTES = 1 << 25  # that one process has done before others have started
START = "import sys; sys.path[:] = {path!r}; from attnlab.data.parallel import serve; serve({descriptor})"


def n_processes() -> int:
    """As many as there are cores for this command."""
    return min(cores(), MOST)


def each(
    function: Callable[[T], R], tasks: Sequence[T], sizes: Sequence[int], title: str, processes: int | None = None
) -> Iterator[tuple[int, R]]:
    """(index, result) of a function of each task, as they come; the function stands in a module, its result is small.

    A bar counts the bytes, `sizes`, where there is a terminal. What the function raises is raised here.
    """
    count = min(n_processes() if processes is None else processes, len(tasks))
    small = processes is None and sum(sizes) <= FEW_BYTES
    shows = sys.stderr.isatty() and not small
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, desc=title, disable=not shows, leave=False) as bar:
        done = ((i, function(task)) for i, task in enumerate(tasks)) if small else _shared(function, tasks, count)
        for i, result in done:
            bar.update(sizes[i])
            yield i, result


def _shared(function: Callable[[T], R], tasks: Sequence[T], count: int) -> Iterator[tuple[int, R]]:
    with ThreadPoolExecutor(count) as threads, _workers(count) as free:  # that these are gone ends the threads

        def ask(index: int) -> tuple[int, R]:
            link = free.get()
            try:
                link.send((function, tasks[index]))
                good, result = link.recv()
            except (EOFError, OSError) as error:
                raise AttnlabError("a process that reads the text was ended; the same command goes on") from error
            finally:
                free.put(link)
            if not good:
                raise result
            return index, result

        left, running = iter(range(len(tasks))), set[Future[tuple[int, R]]]()
        try:
            while True:
                running |= {threads.submit(ask, i) for i in islice(left, count - len(running))}
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()


@contextmanager
def _workers(count: int) -> Iterator[queue.SimpleQueue[Connection]]:
    """The links to so many processes, which end with the block."""
    free: queue.SimpleQueue[Connection] = queue.SimpleQueue()
    links, processes = [], []
    try:
        for _ in range(count):
            link, theirs = Pipe()
            links.append(link)
            start = START.format(path=sys.path, descriptor=theirs.fileno())
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", start],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # Ctrl-C reaches the command alone
                    env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
                )
            )
            theirs.close()
            free.put(link)
        yield free
    finally:
        for process in processes:
            process.kill()  # whatever it writes is no shard before it is renamed
        for process in processes:
            process.wait()
        for link in links:
            link.close()


def serve(descriptor: int) -> None:
    """What a process does: a task, its result, the next, until nobody listens any more."""
    link = Connection(descriptor)
    watch_parent()
    while True:
        try:
            function, task = link.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[bool, Any] = True, function(task)
        except Exception as error:
            answer = False, error
        try:
            link.send(answer)
        except OSError:
            return


def watch_parent() -> None:
    """End this process when the one that started it is gone."""
    import threading
    import time

    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
