"""Training beside another busy process: how fast with threads that wait politely, and with threads that spin.

    python bench/busy_machine.py [--steps 60] [--rounds 3]

The main job on as many threads as there are cores, alone and beside a process that keeps one core busy. Spinning is
what GNU's OpenMP does by itself (300,000 turns); polite is what train.py asks for. Tokens/s of both, and their ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from attnlab.machine.environment import SPINS

TRAIN = Path(__file__).parents[1] / "train.py"
SPINNING = "300000"


def speed(folder: Path, spins: str, steps: int) -> float:
    """Tokens/s of a whole run."""
    words = (f"trainer.max_steps={steps}", f"trainer.val_every={steps}", "overwrite=true", "sample.steps=0")
    subprocess.run(
        [sys.executable, str(TRAIN), *words, f"paths.cache={folder / 'cache'}"],
        cwd=folder,
        env={**os.environ, "GOMP_SPINCOUNT": spins},
        capture_output=True,
        check=True,
    )
    (summary,) = (folder / "runs").rglob("summary.json")
    return float(json.loads(summary.read_text())["tokens_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{'':>8}{'polite':>9}{'spinning':>10}{'ratio':>7}   tokens/s, medians of {options.rounds} rounds")
    for busy in (False, True):
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        try:
            with tempfile.TemporaryDirectory() as name:
                rounds = [
                    [speed(Path(name), spins, options.steps) for spins in (SPINS, SPINNING)]
                    for _ in range(options.rounds)
                ]
        finally:
            if other is not None:
                other.kill()
                other.wait()
        polite, spinning = (statistics.median(side) for side in zip(*rounds, strict=True))
        ratio = statistics.median(a / b for a, b in rounds)
        print(f"{'beside' if busy else 'alone':>8}{polite:9,.0f}{spinning:10,.0f}{ratio:7.2f}")


if __name__ == "__main__":
    main()
