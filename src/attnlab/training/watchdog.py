"""Who watches over the processes of one run, so that none waits for ever for one that failed, died or hangs."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple, NoReturn

import torch.distributed as dist

from attnlab.machine.environment import Processes
from attnlab.training.stop import StopRequest

EVERY = 0.5  # seconds between two signs of life
PATIENCE = 6.0  # seconds after which who gave none is gone, once something has gone wrong
GRACE = 10.0  # seconds that those who are left have to end by themselves


class Sign(NamedTuple):
    """What a process says of itself: how many signs of life it gave, and how far it has come."""

    number: int
    step: int
    stage: int


class Lost(NamedTuple):
    """A process that failed or is gone, with what there is to say of it, and the exit code of all."""

    rank: int
    message: str
    code: int
    noted: bool = False  # by itself

    @property
    def line(self) -> str:
        return f"process {self.rank} {self.message}, which ends the others; the same command continues"


STAGES = ("start", "batch", "forward", "backward", "update", "validation")  # of a step, in order


class Watchdog:
    """A thread that gives a sign of life, and ends this process where the main thread would wait for ever."""

    def __init__(
        self,
        processes: Processes,
        children: Mapping[int, "subprocess.Popen[bytes]"],
        stop: StopRequest,
        *,
        seconds: float,
    ) -> None:
        self.rank, self.children, self.stop, self.seconds = processes.rank, children, stop, seconds
        self.others = [rank for rank in range(processes.world_size) if rank != self.rank]
        self.prefix = f"attnlab/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self.address, self.port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.store = dist.TCPStore(self.address, self.port, is_master=False, timeout=timedelta(seconds=2 * GRACE))
        self.count, self.at, self.since, self.met = 0, (0, 0), time.monotonic(), False
        self.errors: dict[int, str] = {}  # of others, as they have noted them
        self.leaving = False  # whether the main thread knows of what went wrong
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def mark(self, step: int, stage: str) -> None:
        self.at, self.since, self.met = (step, STAGES.index(stage)), time.monotonic(), True

    def close(self) -> None:
        self._done.set()
        self._thread.join()

    def note_error(self, message: str, code: int) -> None:
        """Leave word of why this process ends."""
        with suppress(RuntimeError):
            self.store.set(f"{self.prefix}/error/{self.rank}", json.dumps([message, code]))

    def note_leaving(self) -> None:
        """Leave word that this process ends because another one did."""
        with suppress(RuntimeError):
            self.store.set(f"{self.prefix}/left/{self.rank}", "")

    def wait_for_others(self) -> None:
        """Give the others time to learn why, where the store is here."""
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            if all(self._has_left(rank) for rank in self.others):
                return
            time.sleep(EVERY / 2)

    def lost(self, patience: float = PATIENCE) -> "Lost | None":
        """The first process that failed or is gone; None if none is."""
        before, deadline = {rank: self._sign(rank) for rank in self.others}, time.monotonic() + patience
        while True:
            for rank in self.others:
                if (error := self._error(rank)) is not None:
                    message, code = json.loads(error)
                    return Lost(rank, message, code, noted=True)
            for rank, child in self.children.items():
                if (code := child.poll()) not in (None, 0) and time.monotonic() > deadline - patience + 2 * EVERY:
                    how = f"signal {-code}" if code < 0 else f"exit code {code}"
                    return Lost(rank, f"ended with {how}{self._where()}", max(code, 1))
            if time.monotonic() > deadline:
                break
            time.sleep(EVERY / 5)
        for rank in self.others:
            last, now = before[rank], self._sign(rank)
            if (last is None or now is None or now.number == last.number) and self._get(f"left/{rank}") is None:
                return Lost(rank, f"is gone{self._where()}", 1)
        return None

    def speaks(self, lost: "Lost") -> bool:
        """Whether it is for this process to say what happened: the first that is left. Of itself the first speaks."""
        return self.rank == (1 if lost.rank == 0 else 0) and not (lost.rank == 0 and lost.noted)

    def _run(self) -> None:
        trouble: float | None = None
        while not self._done.wait(EVERY):
            try:
                self.count += 1
                self.store.set(f"{self.prefix}/sign/{self.rank}", json.dumps([self.count, *self.at]))
                if self.leaving:
                    continue
                if not self.met and self.stop.signal is not None:
                    line = "stopped before the first step; the same command continues"
                    self._end(line, self.stop.exit_code, self.rank == 0)
                noticed = any(child.poll() not in (None, 0) for child in self.children.values()) or any(
                    self._error(rank) is not None for rank in self.others
                )
                trouble = (trouble or time.monotonic()) if noticed else None
                if trouble and time.monotonic() - trouble > GRACE:  # the main thread waits for who does not come
                    lost = self.lost(2 * EVERY)
                    if lost is not None:
                        self._end(lost.line, lost.code, self.speaks(lost))
                if time.monotonic() - self.since > self.seconds:
                    self._end_hung()
            except RuntimeError:  # the store is gone, and the first process with it
                trouble = trouble or time.monotonic()
                if not self.leaving and time.monotonic() - trouble > GRACE:
                    lost = self.lost(0.0) or Lost(0, f"is gone{self._where()}", 1)
                    self._end(lost.line, lost.code, self.speaks(lost))

    def _end_hung(self) -> None:
        """Say which process has not come as far as the others, and end."""
        first = {rank: self._sign(rank) for rank in self.others}
        time.sleep(4 * EVERY)
        signs = {rank: sign for rank in self.others if (sign := self._sign(rank)) is not None}
        still = [rank for rank in self.others if rank not in signs or signs[rank] == first[rank]]
        far = {rank: (sign.step, sign.stage) for rank, sign in signs.items()} | {self.rank: self.at}
        behind = still or [rank for rank in sorted(far) if far[rank] == min(far.values()) != max(far.values())]
        names = " and ".join(map(str, behind)) or "none, and yet none goes on"
        step, stage = far.get(behind[0], self.at) if behind else self.at
        where = f"after step {step}, at {STAGES[stage]}"
        if self.rank in behind:
            time.sleep(4 * EVERY)  # the others speak
        first_awake = next((rank for rank in sorted(far) if rank not in behind), 0)
        self._end(
            f"process {names} has done nothing for {self.seconds / 60:g} minutes (trainer.timeout; {where}) and the "
            "others wait for it: all end; the same command continues",
            1,
            self.rank == first_awake,
        )

    def _end(self, message: str, code: int, speaks: bool) -> NoReturn:
        """End at once, from this thread: the main one is where no Python runs."""
        if speaks:
            with suppress(OSError):
                os.write(2, f"error: {' '.join(message.split())}\n".encode())
        if self.rank == 0:
            self.wait_for_others()
        for child in self.children.values():
            child.kill()
        os._exit(code)

    def _where(self) -> str:
        """When that was: by the step of this process, which no other leaves behind."""
        return f" after step {self.at[0]}"

    def _sign(self, rank: int) -> Sign | None:
        text = self._get(f"sign/{rank}")
        return None if text is None else Sign(*json.loads(text))

    def _error(self, rank: int) -> str | None:
        """Why another process ends, if it has left word of it: read once, for the store goes with the first process."""
        error = self.errors.get(rank) or self._get(f"error/{rank}")
        if error is not None:
            self.errors[rank] = error
        return error

    def _has_left(self, rank: int) -> bool:
        child = self.children.get(rank)
        gone = child is not None and child.poll() is not None
        return gone or any(self._get(f"{key}/{rank}") is not None for key in ("left", "error"))

    def _get(self, key: str) -> str | None:
        """What stands in the store; None if nothing does, or the store is gone."""
        with suppress(RuntimeError):
            if self.store.check([f"{self.prefix}/{key}"]):
                return str(self.store.get(f"{self.prefix}/{key}").decode())
        return None
