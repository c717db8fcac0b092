"""The processes of one run: started where no launcher has, in one group, and watched so that none waits for ever."""

import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment
from torch import Tensor

from attnlab.errors import AttnlabError, LostProcess, UsageError
from attnlab.machine.environment import MEETING, STARTED_BY, Processes
from attnlab.store.files import file_failure
from attnlab.training.stop import StopRequest
from attnlab.training.watchdog import GRACE, Watchdog

T = TypeVar("T")
HERE = "127.0.0.1"
LATE = 60.0  # seconds beyond its own time that the store has to say that nobody came


class ProcessGroup:
    """What the processes of a run say to each other; one alone hears itself."""

    rank, world_size = 0, 1

    def broadcast(self, value: T) -> T:
        """What the first process gives."""
        return value

    def largest(self, number: int) -> int:
        """The largest number that any gives."""
        return number

    def gather(self, value: T) -> list[T]:
        """What each gives, in their order."""
        return [value]

    def barrier(self) -> None:
        """Wait for all."""

    def mark(self, step: int, stage: str) -> None:
        """Note how far this process has come."""


class SeveralProcesses(ProcessGroup):
    """The group of a run of several processes."""

    def __init__(self, processes: Processes, watch: "Watchdog") -> None:
        self.rank, self.world_size, self.mark = processes.rank, processes.world_size, watch.mark  # type: ignore[method-assign]

    def broadcast(self, value: T) -> T:
        box: list[Any] = [value]
        dist.broadcast_object_list(box, 0)
        first: T = box[0]
        return first

    def largest(self, number: int) -> int:
        tensor = torch.tensor(number)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        self.largest(0)


@contextmanager
def joined(processes: Processes, stop: StopRequest, *, accelerator: str, minutes: float) -> Iterator[ProcessGroup]:
    """The group of all processes, of which the first starts the others if no launcher has.

    A process that fails, dies, or does nothing for so many minutes ends them all. The first says why, or the one after
    it where the first is gone: the others end without a word (SystemExit), with the same exit code.
    """
    if processes.world_size == 1:
        yield ProcessGroup()
        return
    wait = timedelta(minutes=minutes) + timedelta(seconds=2 * GRACE)  # the watch speaks first
    with _in_time(processes, wait):
        store, children = _meeting_place(processes, wait)
        watch = Watchdog(processes, children, stop, seconds=60 * minutes)
    try:
        try:
            if accelerator == "cuda":
                torch.cuda.set_device(processes.local_rank)
            backend = "cpu:gloo,cuda:nccl" if accelerator == "cuda" else "gloo"
            own_store = dist.PrefixStore("attnlab", store)
            dist.init_process_group(
                backend, store=own_store, rank=processes.rank, world_size=processes.world_size, timeout=wait
            )
            group = SeveralProcesses(processes, watch)
            group.barrier()
            watch.mark(0, "start")
            yield group
            group.barrier()
        except BaseException as error:
            _leave(watch, error)
    finally:
        watch.close()
        for child in children.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(GRACE)
            child.kill()
        with suppress(Exception):  # some of the others may be gone
            dist.destroy_process_group()


@contextmanager
def _in_time(processes: Processes, wait: timedelta) -> Iterator[None]:
    """The processes meet within the block, or this one ends with a line: one is missing, or their port is another's."""
    where = ", ".join(f"{name}={os.environ[name]}" for name in MEETING if name in os.environ)
    line = f"process {processes.rank} of {processes.world_size} did not meet the others ({where})"

    def give_up() -> None:  # whoever listens there may never answer
        os.write(2, f"error: {line}: no answer for {wait.total_seconds():.0f} s\n".encode())
        os._exit(1)

    late = threading.Timer(wait.total_seconds() + LATE, give_up)
    late.daemon = True
    late.start()
    try:
        yield
    except UsageError:
        raise
    except (RuntimeError, ValueError) as error:
        why = next(iter(str(error).splitlines()), "")  # what follows is a trace of torch's C++ code
        raise AttnlabError(f"{line}: {why}") from error
    finally:
        late.cancel()


def _meeting_place(processes: Processes, wait: timedelta) -> tuple[dist.Store, dict[int, "subprocess.Popen[bytes]"]]:
    """The store by which the processes find each other, and those that were started here, by rank."""
    if processes.launched:
        return next(iter(dist.rendezvous("env://", processes.rank, processes.world_size, timeout=wait)))[0], {}
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        raise UsageError(
            f"trainer.devices ({processes.per_node}) starts the same command once more for each further device, which "
            "a notebook or a prompt cannot: write a script, or start it by torchrun"
        )
    door = socket.create_server((HERE, 0))
    port = door.getsockname()[1]
    store = dist.TCPStore(
        HERE, port, is_master=True, wait_for_workers=False, timeout=wait, master_listen_fd=door.detach()
    )
    os.environ |= {"MASTER_ADDR": HERE, "MASTER_PORT": str(port)}
    children = {}
    for rank in range(1, processes.world_size):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes.world_size, STARTED_BY: os.getpid()}
        environment = os.environ | {name: str(number) for name, number in numbers.items()}
        # In a session of its own: Ctrl-C is for the first process, which tells the others at the end of a step.
        children[rank] = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
    return store, children


def gathered(tensor: Tensor) -> Tensor:
    """The tensors of all processes, stacked in their order."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def _leave(watch: Watchdog, error: BaseException) -> NoReturn:
    """Find out whether the error is this process's own or the echo of another's end, and leave with one line in all."""
    if isinstance(error, OSError) and error.filename:
        error = file_failure(error)
    own = isinstance(error, AttnlabError) or not isinstance(error, Exception)
    lost = None if own else watch.lost()
    watch.leaving = True
    if lost is not None:
        watch.note_leaving()
        leaving: BaseException = LostProcess(lost.line, lost.code) if watch.speaks(lost) else SystemExit(lost.code)
    elif watch.rank == 0:
        watch.note_error(_in_words(error), _code(error))
        leaving = error
    else:
        if not own:
            traceback.print_exception(error)  # a fault of the code
        watch.note_error(_in_words(error), _code(error))
        leaving = SystemExit(_code(error))
    if watch.rank == 0:
        watch.wait_for_others()
    raise leaving


def _in_words(error: BaseException) -> str:
    if isinstance(error, AttnlabError):
        return f"failed ({error})"
    return f"failed ({' '.join(f'{type(error).__name__}: {error}'.split())[:300]})"


def _code(error: BaseException) -> int:
    code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", 1)
    return code if isinstance(code, int) else 1


class Launched(ClusterEnvironment):
    """The processes of a run for Lightning: all there, in the order of `Processes`."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", HERE)

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT", "0"))

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.processes.world_size

    def set_world_size(self, size: int) -> None:
        assert size == self.processes.world_size

    def global_rank(self) -> int:
        return self.processes.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self.processes.rank

    def local_rank(self) -> int:
        return self.processes.local_rank

    def node_rank(self) -> int:
        return self.processes.rank // self.processes.per_node


class Marks(L.Callback):
    """Notes how far a process has come, for the others to see."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.group.mark(trainer.global_step, "batch")

    def on_before_backward(self, trainer: L.Trainer, *_: Any) -> None:
        self.group.mark(trainer.global_step, "forward")

    def on_after_backward(self, trainer: L.Trainer, *_: Any) -> None:
        self.group.mark(trainer.global_step, "backward")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.group.mark(trainer.global_step, "update")

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.group.mark(trainer.global_step, "validation")


def parts_of(earlier: Sequence[Mapping[str, Any]], step: int, part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """With which processes a run went, from which step on: what there is, and this part if it is another."""
    parts = [dict(one) for one in earlier if one["from_step"] < step]
    last = {key: value for key, value in parts[-1].items() if key != "from_step"} if parts else None
    return parts if last == part else [*parts, {"from_step": step, **part}]
