"""What warm workers save: a sweep of 8 runs against 8 single commands, one after the other, as a ratio of seconds.

    python bench/sweep.py [--steps 40 200] [--rounds N]

4 layers, 4 heads, width 128, batches of 12 x 64 tokens, as many runs at a time as there are cores. The single commands
have as many threads as torch takes by itself, which is how people type them; that changes the last digits of a loss.
With --threads 1 the two sides must end with equal losses.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "train.py"
SEEDS = 8
SIZES = ("model.context=64", "batch_size=12", "model.n_layers=4", "model.n_heads=4", "model.d_model=128")
AIMS = {40: 3.0, 200: 2.0}


def seconds(folder: Path, *words: str) -> float:
    """How long a command takes that must end well."""
    started = time.perf_counter()
    subprocess.run([sys.executable, str(TRAIN), *words], cwd=folder, capture_output=True, check=True)
    return time.perf_counter() - started


def losses(folder: Path) -> dict[str, float]:
    """The final loss of each seed."""
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.rglob("summary.json")}
    return {name: summary["val_loss"] for name, summary in sorted(found.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=list(AIMS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of the single commands; left out: as torch takes them")
    options = parser.parse_args()
    single = [] if options.threads is None else [f"trainer.threads={options.threads}"]
    print(f"{'steps':>6}{'single':>9}{'sweep':>9}{'ratio':>7}{'aim':>6}{'largest difference of a loss':>31}")
    for steps in options.steps:
        ratios = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                cache = f"paths.cache={folder / 'cache'}"
                words = (*SIZES, f"trainer.max_steps={steps}", cache)
                seconds(folder, *SIZES, cache, "experiment_name=first", "trainer.max_steps=1")  # tokens are cached
                swept = seconds(folder, "-m", *words, f"seed=range({SEEDS})", "experiment_name=swept")
                alone = sum(
                    seconds(folder, *words, *single, f"seed={seed}", "experiment_name=alone") for seed in range(SEEDS)
                )
                ours, theirs = losses(folder / "runs" / "swept"), losses(folder / "runs" / "alone")
            assert len(ours) == SEEDS and ours.keys() == theirs.keys()
            apart = max(abs(ours[seed] - theirs[seed]) for seed in ours)
            assert options.threads != 1 or apart == 0.0, "a warm worker has changed a result"
            ratios.append(alone / swept)
            aim = AIMS.get(steps, "")
            print(f"{steps:6}{alone:8.1f}s{swept:8.1f}s{alone / swept:7.2f}{aim:>6}{apart:31.1e}", flush=True)
        if options.rounds > 1:
            print(f"{steps:6}  median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
