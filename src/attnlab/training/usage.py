"""What a run took, and what ran beside it: memory above that of its start, the load, the share of other processes."""

import ctypes
import gc
import os
import resource
import sys
import time
from contextlib import suppress
from typing import Any

import torch

from attnlab.machine.environment import cores, status_bytes


class Meter:
    """Begins when a run does. Its memory is what it held at most above that of its start: in a process that has done
    other runs before, the whole process holds more with each of them."""

    def __init__(self, accelerator: str) -> None:
        self.accelerator = accelerator
        gc.collect()
        _give_back()
        reset_peak_memory(accelerator)
        self.held = held_bytes(accelerator)
        self.began, self.load, self.busy = time.monotonic(), _load(), _busy_seconds()
        self.own = time.process_time()

    def memory_bytes(self) -> int | None:
        """The most that was held above the start; None where the system tells no peak."""
        return None if self.held is None else max(0, peak_bytes(self.accelerator) - self.held)

    def beside(self) -> dict[str, Any]:
        """The load of the machine at start and end, and the share of its cores that other processes took meanwhile."""
        wall, busy = time.monotonic() - self.began, _busy_seconds()
        others = None
        if busy is not None and self.busy is not None and wall > 0:
            own = time.process_time() - self.own
            others = round(max(0.0, busy - self.busy - own) / (wall * (os.cpu_count() or cores())), 3)
        return {"load": [self.load, _load()], "others_cpu": others}


def alone() -> dict[str, Any]:
    """What ran beside a run that no sweep has started: nothing that could be compared with it."""
    return {"session": f"{os.getpid()}-{time.time_ns()}", "workers": 1}


def held_bytes(accelerator: str) -> int | None:
    """The memory held now, of the kind whose peak is told; None where the system does not tell."""
    if accelerator == "cuda":
        return int(torch.cuda.memory_allocated())
    return status_bytes("VmRSS")


def _give_back() -> None:
    """Return what is free in this process to the system, where the C library can: it would hide what a run takes."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _load() -> float | None:
    """How many processes want to run, on the average of a minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def _busy_seconds() -> float | None:
    """The seconds that all cores together have worked since the machine started; None where nobody tells."""
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            user, nice, system, _idle, _waiting, *rest = (int(word) for word in next(lines).split()[1:9])
        return (user + nice + system + sum(rest[:2])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, StopIteration):
        return None


def reset_peak_memory(accelerator: str) -> None:
    """Look for the peak anew; on the CPU this needs Linux, elsewhere the peak stays that of the whole process."""
    if accelerator == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        try:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # the kernel's word for: the peak of the resident set is what it is now
        except OSError:
            pass  # not Linux, or a container that hides it


def peak_bytes(accelerator: str) -> int:
    """The most memory held at once: what tensors took on a GPU, the whole process on a CPU."""
    if accelerator == "cuda":
        return int(torch.cuda.max_memory_allocated())
    peak = status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if peak is None else peak
