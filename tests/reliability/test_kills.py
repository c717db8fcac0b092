"""Runs that are killed at random moments and gone on with are the runs that nobody disturbed: k of n."""

import io
import os
import random
import signal
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from tests.training.launch import STEPS, folder_of, tiny
from tests.training.test_resume import assert_identical

from attnlab.config.compose import compose_config
from attnlab.store.run_folder import RunFolder
from attnlab.training.run import run

VARIANTS = ("multi_head", "gqa", "sliding_window", "mla", "linear", "gated_delta")
VARIANTS += ("mamba2", "rwkv7", "ttt", "log_linear", "hybrid", "differential")
SETTINGS = {
    "default": (),
    "muon": ("optimizer=muon",),
    "accumulate": ("trainer.accumulate=2",),
    "dropout": ("model.dropout=0.3",),
    "mqar": ("data=mqar", "tokenizer=task", "data.n_pairs=3", "data.n_vocab=64", "data.val_rows=64"),
    "lengths": ("evaluation.lengths=[2]",),
    "bf16": ("trainer.precision=bf16",),
    "bpe": ("tokenizer=bpe",),
}
KILLS = 3


def in_a_child(folder: Path, variant: str, words: tuple[str, ...], kill_after: float | None = None) -> int:
    """Train in a process of its own, which the system ends without a warning after so many seconds; how it ended."""
    keys = {word.partition("=")[0] for word in words} | ({"data.path"} if "data=mqar" in words else set())
    usual = [word for word in tiny(folder, f"attention={variant}") if word.partition("=")[0] not in keys]
    config = compose_config([*usual, *words])
    child = os.fork()
    if not child:
        if kill_after is not None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, kill_after)
        code = 1
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                run(config, variant=variant)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def check(variant: str, setting: str, folder: Path) -> None:
    chance, words = random.Random(f"{variant} {setting}"), SETTINGS[setting]
    (folder / "whole").mkdir()
    (folder / "killed").mkdir()
    began = time.monotonic()
    assert in_a_child(folder / "whole", variant, words) == 0
    took = time.monotonic() - began
    for _ in range(KILLS):
        in_a_child(folder / "killed", variant, words, kill_after=max(0.001, took * chance.random()))
    assert in_a_child(folder / "killed", variant, words) == 0
    run_folder = folder_of(folder / "killed", variant)
    assert RunFolder(run_folder).read_summary()["step"] == STEPS
    assert_identical(run_folder, folder_of(folder / "whole", variant))


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_killed(variant: str, setting: str, tmp_path: Path) -> None:
    """Twelve variants under eight settings, each killed three times."""
    check(variant, setting, tmp_path)
