"""Runs of several processes: a crew that was forked from one process, so that what takes long to import is there."""

import contextlib
import io
import json
import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tests.limits import HANG
from tests.training.fits import ADAMW, language_model, tiny_data, tiny_model, trainer_like_a_run
from tests.training.launch import write_text

import attnlab
import attnlab.runs
from attnlab.errors import AttnlabError
from attnlab.machine.environment import Processes
from attnlab.store.run_folder import RunFolder
from attnlab.training.callbacks import Checkpoints
from attnlab.training.checkpoint import network_weights
from attnlab.training.hardware import strategy_name
from attnlab.training.optimizer import Recipe
from attnlab.training.process_group import Marks, joined
from attnlab.training.recorders.metrics import MetricsRecorder
from attnlab.training.run import make_strategy, quiet
from attnlab.training.stop import stop_request

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.several"])
TINY = {
    "data": "file",
    "tokenizer": "byte",
    "model.n_layers": "2",
    "model.n_heads": "2",
    "model.d_model": "16",
    "model.context": "16",
    "model.dropout": "0.0",
    "batch_size": "4",
    "trainer.max_steps": "12",
    "trainer.val_every": "100",
    "trainer.checkpoint_every": "4",
    "trainer.log_every": "1",
    "trainer.threads": "1",
    "trainer.precision": "fp32",
    "trainer.progress": "false",
    "maps.steps": "0",
    "sample.steps": "0",
    "logger": "[]",
}
# Ends its process at a moment of a step: "die" as kill -9 does, "raise" by an error of its own, "hang" for good, or
# "stop", which asks the run to stop.
AT = """
import os, signal, time
from attnlab.training.module import LanguageModel
usual = LanguageModel.training_step
def training_step(self, batch, batch_idx):
    if self.trainer.global_step == {step}:
        LanguageModel.training_step = usual
        {what}
    return usual(self, batch, batch_idx)
LanguageModel.training_step = training_step
"""
DIE, HANGS = "os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(10**6)"
RAISE, STOP = "raise OSError(28, 'No space left on device', 'somewhere')", "os.kill(os.getpid(), signal.SIGTERM)"


def at(step: int, what: str) -> str:
    return AT.format(step=step, what=what)


NONE: Mapping[Any, str] = {}


class Ended(NamedTuple):
    """What came of the processes, by rank."""

    codes: list[int]
    out: list[str]
    errors: list[str]  # what is said where a run ends badly


class Crew:
    """Processes that run whatever they are given, one run after the other; one that died is replaced."""

    def __init__(self) -> None:
        self.members: dict[int, tuple[Any, Connection]] = {}

    def fit(self, folder: Path, n: int, strategy: str = "ddp", *, codes: Mapping[int, str] = NONE, **how: Any) -> Ended:
        """Train a tiny model with n processes, by Lightning and what a run adds to it (see `fit`)."""
        folder.mkdir(parents=True, exist_ok=True)
        return self._all(n, "fit", {"folder": folder, "strategy": strategy, **how}, codes)

    def run(
        self,
        folder: Path,
        n: int,
        strategy: str = "ddp",
        settings: Mapping[str, str] = NONE,
        codes: Mapping[int, str] = NONE,
    ) -> Ended:
        """Run with n processes, as a launcher starts them; `codes` are executed before, by rank."""
        folder.mkdir(parents=True, exist_ok=True)
        text = folder / "text.txt"
        if not text.exists():
            write_text(folder)
        own = {"data.path": text, "paths.runs": folder / "runs", "paths.cache": folder / "cache"}
        given = {**TINY, **own, **settings}
        words = ["trainer=cpu" if n == 1 else f"trainer={strategy}", f"trainer.devices={n}", "trainer.accelerator=cpu"]
        words += [f"{name}={value}" for name, value in given.items()]
        return self._all(n, "run", {"words": words}, codes)

    def _all(self, n: int, what: str, how: dict[str, Any], codes: Mapping[int, str]) -> Ended:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for rank in range(n):
            self._member(rank)[1].send((n, port, what, how, codes.get(rank, "")))
        return Ended(*map(list, zip(*[self._result(rank) for rank in range(n)], strict=True)))

    def close(self) -> None:
        for process, _ in self.members.values():
            process.kill()
            process.join()

    def _member(self, rank: int) -> tuple[Any, Connection]:
        if rank not in self.members:
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_member, args=(rank, theirs), daemon=True)
            process.start()
            theirs.close()
            self.members[rank] = (process, ours)
        return self.members[rank]

    def _result(self, rank: int) -> tuple[int, str, str]:
        process, pipe = self.members[rank]
        try:
            if pipe.poll(HANG):
                code, out, error = pipe.recv()
                if code:
                    process.join()
                    del self.members[rank]
                return code, out, error
            process.kill()
        except (EOFError, ConnectionResetError):
            pass
        process.join()
        del self.members[rank]
        return process.exitcode, "", ""


def _member(rank: int, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a fork server ignores
    os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    quiet()
    while True:
        n, port, what, how, code = pipe.recv()
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "MASTER_PORT": port}
        for name, number in numbers.items():
            os.environ.pop(name, None)
            if n > 1:
                os.environ[name] = str(number)
        exec(code, {})
        ended = _ended(partial(fit, Processes(rank, rank, n, 1, n > 1)) if what == "fit" else _train, how)
        pipe.send(ended)
        if ended[0]:
            os._exit(0)  # as a command that fails: the others find their connections closed


def _ended(what: Callable[..., Any], how: dict[str, Any]) -> tuple[int, str, str]:
    """The exit code that a command would have, what it prints, and its error in a line."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            what(**how)
        return 0, out.getvalue(), ""
    except AttnlabError as error:
        return error.exit_code, out.getvalue(), str(error)
    except SystemExit as error:
        return int(str(error.code)), out.getvalue(), ""
    except BaseException:
        return -1, out.getvalue(), traceback.format_exc()


def _train(words: list[str]) -> None:
    attnlab.train(words)


def fit(
    processes: Processes,
    folder: Path,
    strategy: str,
    *,
    steps: int = 12,
    every: int = 4,
    dtype: torch.dtype = torch.float64,
    accumulate: int = 1,
    minutes: float = 1,
    recipe: Recipe = ADAMW,
    **settings: Any,
) -> None:
    """Train a tiny model in a folder, from its newest checkpoint on."""
    home = RunFolder(folder)
    module = language_model(tiny_model(**settings).to(dtype), recipe)
    with stop_request() as stop, joined(processes, stop, accelerator="cpu", minutes=minutes) as group:
        path, _ = home.checkpoints.newest(with_rows=True)
        path = group.broadcast(path)
        table = None if group.rank else MetricsRecorder(home)
        if table is not None:
            listed = None if path is None else home.checkpoints.listed()[path.name]
            table.resume_at(*(None,) if listed is None else (listed["step"], None, listed["beside"]))
        part = {"world_size": group.world_size}
        checkpoints = Checkpoints(home.checkpoints, every=every, stop=stop, fingerprint={}, group=group, part=part)
        trainer = trainer_like_a_run(
            steps=steps,
            accumulate=accumulate,
            val_every=5,
            callbacks=[checkpoints, Marks(group)],
            recorders=[] if table is None else [table],
            processes=processes,
            strategy=make_strategy(strategy_name(strategy, group.world_size), group, home.checkpoints),
        )
        trainer.fit(module, datamodule=tiny_data(4), ckpt_path=path, weights_only=True)


def seed_folder(folder: Path) -> Path:
    """The only run below a folder."""
    (run,) = (folder / "runs").glob("*/*/seed_0")
    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Those of the newest checkpoint of a run."""
    path, problems = RunFolder(folder).checkpoints.newest()
    assert path is not None and problems == []
    return network_weights(path)


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((seed_folder(folder) / "summary.json").read_text())
    return content
