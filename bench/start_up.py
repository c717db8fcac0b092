"""How long the command line takes to answer, in seconds: python bench/start_up.py [--rounds N]"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "train.py"
CASES = {
    "--help": (["--help"], 1.0),
    "--cfg job": (["--cfg", "job"], 1.0),
    "a mistyped name": (["attention=multi_haed"], 1.0),
    "a mistyped key": (["model.n_layer=3"], 1.0),
    "a mistyped number": (["trainer.max_steps=ten"], 1.0),
    "an impossible construction": (["model.n_heads=5"], 6.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{'case':28}{'best':>8}{'median':>8}{'aim':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (words, aim) in CASES.items():
            taken = []
            for _ in range(options.rounds):
                started = time.perf_counter()
                subprocess.run([sys.executable, str(TRAIN), *words], cwd=folder, capture_output=True, check=False)
                taken.append(time.perf_counter() - started)
            print(f"{name:28}{min(taken):8.2f}{statistics.median(taken):8.2f}{aim:7.1f}")


if __name__ == "__main__":
    main()
