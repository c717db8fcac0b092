"""A sweep that another command of attnlab asks for: its design in a file, its runs by `attnlab train -m`."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from attnlab.errors import AttnlabError, Stopped, UsageError
from attnlab.machine.signals import EXIT_CODES
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.files import write_atomically
from attnlab.store.status import Status
from attnlab.training.stop import stop_request

SOME_FAILED, LOST = 1, (Status.FAILED, Status.DIVERGED)
STOPPED = (*EXIT_CODES.values(), *(-number for number in EXIT_CODES))  # negative: before it had handlers of its own
TICK = 0.2  # seconds between two looks at whether a signal has come


def train_design(
    folder: Path,
    name: str,
    design: Mapping[str, Any],
    overrides: Sequence[str],
    *,
    n_jobs: int | None = None,
    config_dir: Path | None = None,
    seconds: float | None = None,
) -> bool:
    """Run a design as the experiment `folder`, without a report; what is finished is not run again.

    `n_jobs` run at a time, or one for each core; `config_dir` holds configs of the user's own. After `seconds` it is
    stopped. Returns whether it came to its end. Raises Stopped where a user stopped it, when its runs have saved their
    states, and UsageError where it was refused; runs that failed or diverged are for the reader of the folder.
    """
    file = folder / "designs" / "sweep" / f"{name}.yaml"
    write_atomically(file, yaml.safe_dump(dict(design), sort_keys=False, width=1000).encode(), key="experiment")
    typed = [f"+sweep={name}", f"experiment_name={folder.name}", f"paths.runs={folder.parent}", *overrides]
    if n_jobs is not None:
        typed.append(f"hydra.launcher.n_jobs={n_jobs}")
    designs = file.parents[1]
    if config_dir is not None:
        typed.append(f'hydra.searchpath=["file://{designs.absolute()}"]')
    arguments = ["-m", "--config-dir", str(config_dir or designs), *typed, "report.at_end=false"]
    print(f"attnlab train {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "attnlab.cli.train", *arguments]
    environment = {**os.environ}
    if config_dir is not None and any(word.startswith("allow_targets=") for word in overrides):
        paths = [os.environ.get("PYTHONPATH", ""), str(config_dir.resolve().parent)]  # where `attnlab new` puts a class
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    deadline = None if seconds is None else time.monotonic() + seconds
    # In a group of its own: what a terminal sends comes to this process alone, as what `kill` sends does.
    with stop_request() as stop, subprocess.Popen(command, env=environment, process_group=0) as process:
        ended = False
        while (code := _wait(process, TICK)) is None:
            if not ended and (stop.signal is not None or (deadline is not None and time.monotonic() > deadline)):
                process.terminate()  # and wait: the command must not end before its runs have saved their states
                ended = True
        if stop.signal is not None or (code in STOPPED and not ended):
            number = stop.exit_code if stop.signal is not None else abs(code) + 128 * (code < 0)
            raise Stopped(f"stopped; the same command goes on with {folder}", number)
    if ended:
        return False
    if code == UsageError.exit_code:
        raise UsageError("attnlab train refused the sweep (why, is told above)")
    some_failed = any(run.get("status") in LOST for run in ExperimentFolder(folder).manifest.read()["runs"])
    if code != 0 and not (code == SOME_FAILED and some_failed):  # the same code as of a disk that took no manifest
        raise AttnlabError(f"attnlab train ended with exit code {code} (why, is told above)")
    return True


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    """How a process has ended; None if it has not within so many seconds."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
