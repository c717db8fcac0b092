"""A sweep that another command of attnlab asks for: its design in a file, its runs by `attnlab train -m`."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from attnlab.errors import AttnlabError, Stopped, UsageError
from attnlab.store.files import write_atomically

SOME_FAILED, STOPPED = 1, (130, 143)


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
    stopped. Returns whether it came to its end. Raises Stopped where a user stopped it, and UsageError
    where it was refused; runs that failed or diverged are for the reader of the folder.
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
    with subprocess.Popen([sys.executable, "-m", "attnlab.cli.train", *arguments]) as process:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # Ctrl-C would not reach it where this runs in the background of a script
            process.wait()
            return False
    if code in STOPPED:
        raise Stopped(f"stopped; the same command goes on with {folder}", code)
    if code == UsageError.exit_code:
        raise UsageError("attnlab train refused the sweep (why, is told above)")
    if code not in (0, SOME_FAILED):
        raise AttnlabError(f"attnlab train ended with exit code {code} (why, is told above)")
    return True
