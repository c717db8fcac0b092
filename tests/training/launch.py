"""A tiny run, in this process or in one of its own that can be killed at a chosen moment."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.limits import HANG

from attnlab.config.compose import compose_config
from attnlab.store.files import parse_json, read_file
from attnlab.store.run_folder import RunFolder
from attnlab.training.run import run

ROOT = Path(__file__).parents[2]
STEPS = 24
TINY = (
    "data=file",
    "tokenizer=byte",
    "model.n_layers=2",
    "model.n_heads=2",
    "model.d_model=32",
    "model.context=32",
    "batch_size=4",
    f"trainer.max_steps={STEPS}",
    "trainer.val_every=8",
    "trainer.checkpoint_every=5",
    "trainer.log_every=1",
    "trainer.threads=1",
    "maps.steps=4",
    "sample.steps=2",
    "sample.tokens=4",
)
# Kills its own process at the given moment of the given step, without a chance to clean up.
KILLER = """
import os, signal, sys
from attnlab.store import checkpoints
from attnlab.training import callbacks, module
place, step = sys.argv.pop(1), int(sys.argv.pop(1))
def dies(owner, name, when):
    usual = getattr(owner, name)
    def method(self, *args, **kwargs):
        done = usual(self, *args, **kwargs)
        if when(self, args):
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    setattr(owner, name, method)
reached = lambda self, args: self.trainer.global_step >= step
moments = {
    "batch_start": (module.LanguageModel, "on_train_batch_start", reached),
    "clipping": (module.LanguageModel, "configure_gradient_clipping", reached),
    "batch_end": (module.LanguageModel, "on_train_batch_end", reached),
    "validation": (module.LanguageModel, "validation_step", reached),
    "saved": (checkpoints.CheckpointFolder, "write", lambda self, args: args[1] >= step),
    "flushed": (callbacks.Checkpoints, "_stopping", lambda self, args: args[0].global_step >= step),
}
dies(*moments[place])
"""
START = """
import runpy, sys
sys.argv[0] = 'train.py'
runpy.run_path({file!r}, run_name='__main__')
"""


def write_text(folder: Path) -> Path:
    """A text that is no repetition, a few kilobytes long."""
    path = folder / "text.txt"
    path.write_text("\n".join(f"{i} times {i + 7} is {i * (i + 7)}, and {i % 7} is left." for i in range(300)))
    return path


def tiny(folder: Path, *words: str) -> list[str]:
    """The command-line words of a tiny run whose results go below a folder."""
    text = folder / "text.txt"
    if not text.exists():
        write_text(folder)
    return [*TINY, f"data.path={text}", f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}", *words]


def run_here(
    folder: Path, *words: str, variant: str = "multi_head", config_dirs: Sequence[Path] = ()
) -> dict[str, Any]:
    """Run in this process; returns the summary."""
    return run(compose_config(tiny(folder, f"attention={variant}", *words), config_dirs), variant=variant)


def command(folder: Path, *words: str, kill: tuple[str, int] | None = None) -> list[str]:
    """The command that runs `python train.py`, or does so and dies at a moment (see KILLER)."""
    start = START.format(file=str(ROOT / "train.py"))
    if kill is None:
        return [sys.executable, "-c", start, *tiny(folder, *words)]
    return [sys.executable, "-c", KILLER + start, kill[0], str(kill[1]), *tiny(folder, *words)]


def run_there(folder: Path, *words: str, kill: tuple[str, int] | None = None) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own and wait for it."""
    return subprocess.run(
        command(folder, *words, kill=kill), capture_output=True, text=True, timeout=HANG, check=False, env=environment()
    )


def environment() -> dict[str, str]:
    """One thread, so that tests side by side do not slow each other down."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def folder_of(folder: Path, variant: str = "multi_head", experiment: str = "default") -> Path:
    """Where the only run of a variant below a folder is."""
    (found,) = (folder / "runs" / experiment).glob(f"{variant}-*/seed_0")
    return found


def unseal(run: Path) -> None:
    """Take away what summary.json says of itself and of the files beside it, as in a run from before there was that."""
    with suppress(OSError, ValueError, AttributeError):
        summary = parse_json(read_file(RunFolder(run).summary))
        unsealed = {key: value for key, value in summary.items() if key not in ("files", "sha256")}
        RunFolder(run).summary.write_text(json.dumps(unsealed))
