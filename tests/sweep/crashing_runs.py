"""Sweeps of tiny runs, some of which die once: a package of the user's, and the command that trains with it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.limits import HANG

from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.training.checkpoint import load_checkpoint

TRAIN = Path(__file__).parents[2] / "train.py"
PACKAGE = '''
"""Attention that dies in the first training step of some of its runs, if it has not done so before."""
import os, signal, sys
from pathlib import Path
from attnlab.attention.multi_head import MultiHeadAttention

class Crashing(MultiHeadAttention):
    def __init__(self, d_model, *, tag, crashes, **settings):
        super().__init__(d_model, **settings)
        self.tag, self.crashes = tag, Path(crashes)

    def forward(self, x, shared=None):
        y = super().forward(x, shared)
        grave = self.crashes / str(self.tag)
        if not self.training or x.is_meta or not y.requires_grad or grave.exists():
            return y
        if self.tag in ENDS:
            grave.touch()
        if self.tag == "raise":
            raise RuntimeError("out of luck")
        if self.tag == "exit":
            sys.exit(3)
        if self.tag == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return y * float("nan") if self.tag == "notanumber" else y

ENDS = ("raise", "exit", "kill", "notanumber")
'''
YAML = """
defaults:
  - multi_head
  - _self_
_target_: crashing.Crashing
tag: none
crashes: {crashes}
"""
TINY = (
    "data=file",
    "tokenizer=byte",
    "model.n_layers=1",
    "model.n_heads=2",
    "model.d_model=16",
    "model.context=16",
    "batch_size=2",
    "trainer.val_every=4",
    "trainer.checkpoint_every=2",
    "trainer.log_every=1",
    "maps.steps=2",
    "maps.probe=one",
    "sample.steps=1",
    "sample.tokens=2",
)


def prepare(folder: Path) -> None:
    """Put the text, the package and its YAML in place."""
    (folder / "conf" / "attention").mkdir(parents=True)
    (folder / "crashes").mkdir()
    (folder / "crashing.py").write_text(PACKAGE)
    (folder / "conf" / "attention" / "crashing.yaml").write_text(YAML.format(crashes=folder / "crashes"))
    (folder / "text.txt").write_text("\n".join(f"{i} times {i + 7} is {i * (i + 7)}." for i in range(100)))


def command(folder: Path, *words: str, steps: int = 8) -> list[str]:
    """python train.py with tiny runs; a word given replaces the usual one."""
    given = {word.partition("=")[0] for word in words}
    usual = (word for word in TINY if word.partition("=")[0] not in given)
    settings = (*usual, f"trainer.max_steps={steps}", f"data.path={folder}/text.txt", *words)
    return [sys.executable, str(TRAIN), f"--config-dir={folder}/conf", *settings]


def crashing(*tags: str) -> list[str]:
    """The words of a sweep in which runs with these tags die once."""
    return ["-m", "attention=crashing", "allow_targets=[crashing]", f"attention.tag={','.join(tags)}"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def typed(folder: Path, *words: str, steps: int = 8) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own, in that folder."""
    # A flag must not stand between settings.
    flags, settings = [w for w in words if w.startswith("-")], [w for w in words if not w.startswith("-")]
    line = command(folder, *settings, steps=steps)
    return subprocess.run(
        [*line[:2], *flags, *line[2:]],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )


def entries(folder: Path, experiment: str = "default") -> list[dict[str, Any]]:
    """The runs in the manifest."""
    found: list[dict[str, Any]] = ExperimentFolder(folder / "runs" / experiment).manifest.read()["runs"]
    return found


def started(folder: Path, *words: str, steps: int) -> "subprocess.Popen[str]":
    """The same command as a sweep, not waited for."""
    line = command(folder, *words, steps=steps)
    return subprocess.Popen(
        [*line[:2], "-m", *line[2:]],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], object], seconds: float = HANG) -> None:
    """Wait until something has come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def same_results(one: Path, other: Path) -> bool:
    """Whether two run folders hold the same weights and optimizer states, to the last bit."""

    def parts(run: Path) -> list[torch.Tensor]:
        (last,) = sorted((run / "checkpoints").glob("*.ckpt"))[-1:]
        loaded = load_checkpoint(last)
        states = loaded["optimizer_states"][0]["state"]
        moments = [tensor for key in sorted(states) for tensor in states[key].values()]
        return [*loaded["state_dict"].values(), *moments]

    ours, theirs = parts(one), parts(other)
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
