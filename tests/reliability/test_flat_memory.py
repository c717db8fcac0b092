"""A worker that has done two hundred jobs holds as much memory as one that has done five."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.reliability.test_disk import TINY
from tests.training.launch import ROOT

JOBS, WARM, MOST = 200, 5, 0.05


@pytest.mark.slow
def test_memory_of_a_worker_is_flat(tmp_path: Path) -> None:
    """In a process of its own, without the checks of annotations that tests add."""
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.training.launch import run_here
for seed in range({JOBS}):
    run_here(Path({str(tmp_path)!r}), *{TINY!r}, f"seed={{seed}}")
    resident = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS"))
    print("KiB", resident, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=7200)
    sizes = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("KiB ")]
    print(f"{sizes[WARM] / 1024:.0f} MiB after {WARM + 1} jobs, {sizes[-1] / 1024:.0f} MiB after {JOBS}")
    assert len(sizes) == JOBS and sizes[-1] <= sizes[WARM] * (1 + MOST)
