"""What there is to compute with, and how threads wait for each other, as far as that is settled without torch."""

import os

# How often a thread of GNU's OpenMP looks before it sleeps: by default 300,000 times, and 1,000 times where it knows of
# more threads than cores, which it cannot where another process has them. 10,000 cost nothing measurable alone.
SPINS = "10000"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def wait_politely() -> None:
    """Let threads that wait for others give up their core after microseconds, unless the user has settled that.

    A step of a small model has hundreds of parallel loops. Beside another busy process a thread that spins keeps the
    very thread it waits for from running, and training becomes many times slower. Only read before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
