"""What a plan of 500 settings takes, in seconds of one core: python -m bench.plan [--seconds 30]

Two kinds of sweeps: fifty variants at ten depths, where every model is another one, and four variants at many learning
rates. `--seconds` makes the figure a condition: the exit code is 1 where a plan takes more.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attnlab.config.keys import options

TRAIN = Path(__file__).parents[1] / "train.py"
SETTINGS, VARIANTS = 500, 50


def kinds() -> dict[str, list[str]]:
    """The words of each sweep."""
    names = options("attention")[:VARIANTS]
    depths = range(1, 1 + SETTINGS // VARIANTS)
    rates = [f"{1e-5 * (i + 1):.5f}" for i in range(SETTINGS // 4)]
    return {
        "variants x depths": [f"attention={','.join(names)}", f"model.n_layers={','.join(map(str, depths))}"],
        "variants x rates": ["attention=multi_head,gqa,linear,gated_delta", f"optimizer.lr={','.join(rates)}"],
    }


def plan(words: list[str], folder: str) -> tuple[int, float, float]:
    """(settings, seconds of processors, seconds by the clock) of one plan on one core."""
    command = [sys.executable, str(TRAIN), "-m", "plan=true", *words]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    core = str(min(os.sched_getaffinity(0)))
    done = subprocess.run(["taskset", "-c", core, *command], cwd=folder, check=True, capture_output=True, text=True)
    took = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return int(done.stdout.split(" runs of ")[1].split()[0]), spent, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=None)
    limit = parser.parse_args().seconds
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(TRAIN), "plan=true"], cwd=folder, check=True, capture_output=True)
        for kind, words in kinds().items():
            settings, spent, took = plan(words, folder)
            worst = max(worst, spent)
            print(f"{kind}: {settings} settings, {spent:.1f} s of one processor, {took:.1f} s by the clock", flush=True)
    sys.exit(int(limit is not None and worst > limit))


if __name__ == "__main__":
    main()
