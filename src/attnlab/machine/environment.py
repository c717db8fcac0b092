"""What there is to compute with, and what the environment says, as far as that is settled without torch."""

import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from attnlab.errors import UsageError

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # by which Lightning numbers a process
STARTED_BY = "ATTNLAB_FIRST_PROCESS"  # the id of the process that has started this one, if one of the same run did
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # set by torchrun, and by the first process for those that it starts
MEETING = ("MASTER_ADDR", "MASTER_PORT")  # likewise: where the processes of a run find each other
# Control characters but tab and line feed, and those that turn the direction of what follows.
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

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


def write_line_by_line() -> None:
    """Put each line where it goes as soon as it is printed, in a pipe and a file too: a command may take minutes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


@contextmanager
def alone(processes: int = 1) -> Iterator[None]:
    """Hide the number that a launcher gave this process: as any but the first, Lightning would write nothing. Where
    one process is not all, it stays, and warnings of torch's C++ code about several are not for users."""
    if processes > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    hidden = {name: os.environ.pop(name) for name in RANKS if processes == 1 and name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def environment_of_user() -> Mapping[str, str]:
    """The environment as the user has left it: torchrun sets OMP_NUM_THREADS for its processes where nobody has. The
    kernel of Linux keeps what torchrun itself was given; elsewhere this is the environment of the process."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with suppress(OSError):
            lines = Path(f"/proc/{os.getppid()}/environ").read_bytes().decode(errors="replace").split("\0")
            return dict(line.partition("=")[::2] for line in lines)
    return os.environ


class Processes(NamedTuple):
    """The processes of one run, of equally many on each node, and which of them this is."""

    rank: int = 0  # among all
    local_rank: int = 0  # on this node
    per_node: int = 1
    nodes: int = 1
    launched: bool = False  # whether a launcher has started them all; if not, the first starts the others

    @property
    def world_size(self) -> int:
        return self.per_node * self.nodes


def processes(devices: int, nodes: int = 1) -> Processes:
    """Which of the processes of one run this is, by the variables that torchrun sets: RANK, LOCAL_RANK, WORLD_SIZE, or
    by those that srun sets for as many tasks.

    With one device on one node there is one process, whatever a launcher has left in the environment. Refused if what
    it says does not fit trainer.devices and trainer.nodes.
    """
    if devices * nodes == 1:
        return Processes()
    _take_slurm(devices * nodes)
    own, local, size = (os.environ.get(name) for name in LAUNCHED)
    if own is None and local is None and size is None:
        if nodes > 1:
            raise UsageError(
                f"trainer.nodes ({nodes}) needs a launcher that starts the processes of every node: torchrun "
                f"--nnodes={nodes} --nproc-per-node={devices} train.py ..."
            )
        return Processes(0, 0, devices, nodes, launched=False)
    numbers = [int(value) if value is not None and value.isdecimal() else -1 for value in (own, local, size)]
    if numbers[2] != devices * nodes or not 0 <= numbers[0] < numbers[2] or numbers[1] != numbers[0] % devices:
        values = ", ".join(f"{name}={os.environ[name]}" for name in LAUNCHED if name in os.environ)
        raise UsageError(
            f"trainer.devices ({devices}) times trainer.nodes ({nodes}) does not fit what the environment says of "
            f"processes ({values}): set them to what the launcher has started, or unset these variables, and attnlab "
            "starts the processes of one machine itself"
        )
    address, port = (os.environ.get(name, "") for name in MEETING)
    if not address or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(
            f"MASTER_ADDR ({address or 'not set'}) and MASTER_PORT ({port or 'not set'}) must say where the processes "
            "of the run meet, as a launcher sets them: the address of the first, and a port of 1 to 65535"
        )
    return Processes(numbers[0], numbers[1], devices, nodes, launched=True)


def plan_processes(devices: int, nodes: int = 1) -> Processes:
    """The processes of a run that is planned, whatever there is; of several that a launcher has started, which one."""
    ranks = (os.environ.get(name, "") for name in ("RANK", "SLURM_PROCID"))
    return Processes(next((int(rank) for rank in ranks if rank.isdecimal()), 0), 0, devices, nodes)


def _take_slurm(world_size: int) -> None:
    """Put the numbers that srun gave this task where torchrun would, if the step has as many tasks as the run needs.

    The processes meet on the node that srun was typed on, which of a batch job is its first; each step has a port.
    """
    step = os.environ.get("SLURM_STEP_NUM_TASKS") == str(world_size)
    if not step or any(name in os.environ for name in LAUNCHED) or STARTED_BY in os.environ:
        return
    names = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS"}
    os.environ |= {name: os.environ[own] for name, own in names.items()}
    number = int(os.environ.get("SLURM_JOB_ID", "0")) * 100 + int(os.environ.get("SLURM_STEP_ID", "0"))
    os.environ.setdefault("MASTER_PORT", str(20000 + number % 10000))
    os.environ.setdefault("MASTER_ADDR", os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))


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


def harmless(text: str) -> str:
    """A text for a terminal: what would change it or hide what stands there becomes an escape, such as \\x1b.

    Line breaks, tabs and what joins letters of some scripts stay.
    """
    return ACTS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def check_arguments(argv: Sequence[str]) -> None:
    """Refuse words of the command line that are no text, such as Chinese where the locale is ASCII's."""
    for word in argv:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UsageError(
                f"cannot read {word!a}: it is not text in the encoding of the locale "
                f"({sys.getfilesystemencoding()}); PYTHONUTF8=1 before the command makes that UTF-8"
            )
