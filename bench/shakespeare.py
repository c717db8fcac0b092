"""The loss of the nanoGPT-like baseline, and the CPU time our modern settings need for it: python bench/shakespeare.py

Runs experiment=shakespeare_char_baseline and experiment=shakespeare_char for each seed, in turns, and prints the
full-validation loss and the CPU seconds (of all threads together) of training proper, without validation and maps.
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

from attnlab.config.compose import compose_config
from attnlab.training import callbacks
from attnlab.training.run import run

SIDES = ("shakespeare_char_baseline", "shakespeare_char")


class CPUClock:
    """Stands in for the module `time` where training is timed, so that seconds are those of the CPU."""

    perf_counter = staticmethod(time.process_time)


def train(name: str, seed: int, folder: Path, words: list[str]) -> dict[str, Any]:
    """The summary of one run, whose `train_seconds` are CPU seconds."""
    places = [f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", "sample.steps=0", "maps.steps=2"]
    config = compose_config([f"+experiment={name}", f"seed={seed}", *places, *words])
    with contextlib.redirect_stdout(io.StringIO()):
        return run(config, variant="multi_head")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", help="a copy of Tiny Shakespeare; without one it is fetched")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("words", nargs="*", help="settings for both sides, such as trainer.threads=1")
    options = parser.parse_args()
    words = [*options.words, *([f"data.path={options.path}"] if options.path else [])]
    callbacks.time = CPUClock  # type: ignore[assignment]
    print(f"{'seed':>4}  {'experiment':26}  {'steps':>5}  {'val/loss':>8}  {'CPU s':>7}  share")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            base = 0.0
            for side in SIDES:
                done = train(side, seed, Path(folder), words)
                base = base or done["train_seconds"]
                share = done["train_seconds"] / base
                print(
                    f"{seed:4}  {side:26}  {done['step']:5}  {done['val_loss']:8.4f}  {done['train_seconds']:7.1f}  "
                    f"{share:5.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
