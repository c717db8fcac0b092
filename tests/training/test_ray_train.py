"""Two workers of Ray Train are two processes of one run, by the script of docs/scaling.md."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tests.limits import HANG
from tests.training.launch import ROOT, environment, folder_of, run_there, tiny
from tests.training.several import weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("ray") is None or find_spec("pyarrow") is None, reason="Ray Train is not installed: ray[train]"
    ),
]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_as_processes_of_its_own(strategy: str, tmp_path: Path) -> None:
    """A run by Ray ends as it does with the process that it starts itself, to the last bit."""
    (script,) = re.findall(r"```python\n(from ray\..*?)```", (ROOT / "docs" / "scaling.md").read_text(), re.DOTALL)
    by_ray = re.sub(r"PLACES = \[.*?\]", f"PLACES = {tiny(tmp_path, 'trainer.precision=fp32')!r}", script)
    by_ray = by_ray.replace("trainer=ddp", f"trainer={strategy}")
    silent = environment() | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    done = subprocess.run(
        [sys.executable, "-c", by_ray], capture_output=True, text=True, timeout=HANG, cwd=tmp_path, env=silent
    )
    assert done.returncode == 0, done.stderr[-3000:]
    settings = [f"trainer={strategy}", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=fp32"]
    alone = run_there(tmp_path, *settings, "experiment_name=alone")
    assert alone.returncode == 0, alone.stderr
    ours, theirs = (weights(folder_of(tmp_path, experiment=name)) for name in ("default", "alone"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
