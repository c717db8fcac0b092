"""What reading somebody else's run may take: bounds on sizes, time and memory, which `limits=false` lifts."""

import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from attnlab.errors import UsageError
from attnlab.machine.environment import status_bytes

SECONDS = 60  # of work, measured on the main thread, so that a busy machine does not shorten them
WAITING = 10  # times as long, if it does no work
MEMORY_BYTES = 2**31  # above what the imports took
MODEL_BYTES = 5 << 27  # parameters and buffers: those of GPT-2 and SmolLM2 in float32, and a little more
STATE_BYTES = 2**28  # what decoding keeps of a whole context
CHECKPOINT_BYTES = 5 << 27
MOST_LAYERS, MOST_HEADS = 256, 4096  # heads of all layers together
LIFT = "if you trust this run, limits=false lifts the limit"


def within(what: str, size: float, most: float, unit: str = "") -> None:
    """Refuse what is larger than a run that is read without trust may be."""
    if size > most:
        raise UsageError(f"{what} ({size:,}{unit}) is above {most:,}{unit}, the most that is read; {LIFT}")


@contextmanager
def limited(on: bool) -> Iterator[None]:
    """Bound the time and the memory that the block takes; for commands, since it may end the process."""
    if not on:
        yield
        return
    done = threading.Event()
    threading.Thread(target=_watch, args=(done, threading.get_ident()), daemon=True).start()
    usual = _bound_memory()
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise UsageError(f"this takes more than {MEMORY_BYTES >> 30} GiB of memory; {LIFT}") from error
        raise
    finally:
        done.set()
        if usual is not None:
            resource.setrlimit(resource.RLIMIT_DATA, usual)


def _bound_memory() -> tuple[int, int] | None:
    """Let the process have so much more memory than now, where the system counts it; gives the bounds of before."""
    used = status_bytes("VmData")
    if used is None:
        return None  # no Linux
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        stacks = (os.cpu_count() or 1) << 24  # of threads that torch starts later: reserved, hardly used
        bound_bytes = used + MEMORY_BYTES + stacks
        bounds = [bound for bound in (soft, hard, bound_bytes) if bound != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
        return soft, hard
    except (OSError, ValueError):
        return None


def _watch(done: threading.Event, thread: int) -> None:
    """End the process when its main thread has worked too long: within one operation of torch, nothing else could."""
    try:
        clock = time.pthread_getcpuclockid(thread)
    except (AttributeError, OSError):
        clock = time.CLOCK_MONOTONIC
    worked, began = time.clock_gettime(clock), time.monotonic()
    while not done.wait(0.2):
        if time.clock_gettime(clock) - worked > SECONDS or time.monotonic() - began > WAITING * SECONDS:
            sys.stdout.flush()
            print(f"error: stopped after {SECONDS} seconds of work; {LIFT}", file=sys.stderr, flush=True)
            os._exit(UsageError.exit_code)
