"""Threads that wait for each other give way, unless the user has settled how they wait."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from attnlab.machine.environment import LAUNCHED, Processes, harmless, processes, write_line_by_line

ROOT = Path(__file__).parents[2]
# Both are refused by a layer that is built, so torch is at work by then.
TRAIN = (str(ROOT / "train.py"), "model.n_heads=5")
EXPLAIN = ("-c", "from attnlab.cli import main; main()", "explain", "attention=moba", "attention.topk=0")


def told(words: tuple[str, ...], folder: Path, **settings: str) -> str:
    """What OpenMP says of itself when a command makes torch load it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**kept, "OMP_DISPLAY_ENV": "VERBOSE", **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


def spins(text: str) -> set[str]:
    """How often a thread looks again before it gives way."""
    found = set(re.findall(r"GOMP_SPINCOUNT = '(.+)'", text))
    if not found:
        pytest.skip("torch is not built with GNU's OpenMP here")
    return found


@pytest.mark.parametrize("words", [TRAIN, EXPLAIN], ids=["train", "attnlab"])
def test_threads_do_not_spin(words: tuple[str, ...], tmp_path: Path) -> None:
    """Threads of a command do not spin for long."""
    assert spins(told(words, tmp_path)) == {"10000"}


@pytest.mark.parametrize("settled", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_user_has_settled_stays(settled: dict[str, str], tmp_path: Path) -> None:
    (found,) = spins(told(EXPLAIN, tmp_path, **settled))
    assert found == settled.get("GOMP_SPINCOUNT", found) != "10000"


def test_lines_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was printed is on its way at the end of its line, and what is no file of text is left as it is."""
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe))
    print("before")
    assert pipe.getvalue() == b""
    write_line_by_line()
    print("after")
    assert pipe.getvalue() == b"before\nafter\n"
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    write_line_by_line()


def test_tasks_of_slurm() -> None:
    """A task that srun started is one process of a run that needs as many; else the run starts its own."""
    numbers = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "7"}
    for needed, expected in ((2, Processes(0, 0, 2, 1)), (4, Processes(3, 1, 2, 2, launched=True))):
        with mock.patch.dict(os.environ, numbers):
            for name in LAUNCHED:
                os.environ.pop(name, None)
            assert processes(2, needed // 2) == expected
            assert ("RANK" in os.environ) == expected.launched


def test_harmless() -> None:
    """What would act on a terminal is spelled; text of any script stays as it is."""
    assert harmless("a\x1b[2Jb\x07\x9b\u202ec") == "a\\x1b[2Jb\\x07\\x9b\\u202ec"
    usual = "one\n\ttwo \u0915\u094d\u200d\u0937 \U0001f469\u200d\U0001f4bb \u05e9\u05dc\u05d5\u05dd \ufffd"
    assert harmless(usual) == usual
