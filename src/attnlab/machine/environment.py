"""What there is to compute with, and what the environment says, as far as that is settled without torch."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from attnlab.errors import UsageError

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # by which Lightning numbers a process

# How often a thread of GNU's OpenMP looks before it sleeps: by default 300,000 times, and 1,000 times where it knows of
# more threads than cores, which it cannot where another process has them. 10,000 cost nothing measurable alone.
SPINS = "10000"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def status_bytes(name: str) -> int | None:
    """A number of bytes that Linux tells of this process, such as VmRSS; None where nobody tells."""
    try:
        with open("/proc/self/status", encoding="utf-8") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        return None


def limit_openmp_spinning() -> None:
    """Let threads that wait for others give up their core after microseconds, unless the user has settled that.

    A step of a small model has hundreds of parallel loops. Beside another busy process a thread that spins keeps the
    very thread it waits for from running, and training becomes many times slower. Only read before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


@contextmanager
def alone(devices: int = 1) -> Iterator[None]:
    """Hide the number that a launcher gave this process: as any but the first, Lightning would write nothing. Where
    one process is not all, it stays."""
    hidden = {name: os.environ.pop(name) for name in RANKS if devices == 1 and name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def rank(devices: int) -> int:
    """Which of the processes of one run this is; the first starts the others, if torchrun has not.

    With one device there is one process, whatever a launcher has left in the environment. Refused if what it says does
    not fit several devices of one machine.
    """
    if devices == 1:
        return 0
    names = ("RANK" if "TORCHELASTIC_RUN_ID" in os.environ else "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
    own, size, *nodes = (os.environ.get(name) for name in names)
    numbered = own is not None and own.isdecimal() and int(own) < devices and size == str(devices)
    if not (own is None or numbered) or any(node not in (None, "0") for node in nodes):
        values = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
        raise UsageError(
            f"trainer.devices ({devices}) does not fit what the environment says of processes ({values}); unset "
            "these variables: attnlab starts the processes of one machine itself"
        )
    return int(own or 0)


def open_streams() -> None:
    """Let what a terminal or a file cannot encode become an escape, and what goes to a closed stream go nowhere."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # or the next file that is opened would get what is printed
    os.close(handle)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def check_arguments(argv: Sequence[str]) -> None:
    """Refuse words of the command line that are no text, such as Chinese where the locale is ASCII's."""
    for word in argv:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UsageError(
                f"cannot read {word!a}: it is not text in the encoding of the locale "
                f"({sys.getfilesystemencoding()}); PYTHONUTF8=1 before the command makes that UTF-8"
            )
