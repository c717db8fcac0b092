"""What trainer.compile=true gains, per training step: python bench/compile.py [VARIANT ...] [--rounds N]

The same model plain and compiled, 4 layers, 4 heads, 128 wide, 12 x 64 tokens, float32, one thread. Both sides take
turns, in seconds of the processor, so that a busy machine counts less; the figure is the ratio of the medians. The
seconds of compiling are those of the first step.
"""

import argparse
import statistics
import time

import torch
import yardstick

from attnlab.build import build_model
from attnlab.config import compose_config

SIZE = ["model.n_layers=4", "model.n_heads=4", "model.d_model=128", "model.context=64", "model.dropout=0.0"]
VARIANTS = ["multi_head", "gqa", "sliding_window", "softcap", "linear", "gated_delta", "rwkv7", "ttt"]
VOCABULARY, TURN = 512, 4  # TURN: steps that a side makes in a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=VARIANTS)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ids = torch.randint(VOCABULARY, (12, 65), generator=torch.Generator().manual_seed(0))
    for name in options.variants:
        config = compose_config([f"attention={name}", *SIZE])
        plain, compiled = (build_model(config, VOCABULARY) for _ in range(2))
        compiled.compile(dynamic=False)  # as training does it: one shape
        sides = [yardstick.stepper(plain, ids), yardstick.stepper(compiled, ids)]
        took: list[list[float]] = [[], []]
        firsts = []
        for turn in range(options.rounds + 1):
            for side, step in enumerate(sides):
                for _ in range(TURN):
                    started = time.process_time()
                    wall = step()
                    if turn:
                        took[side].append(time.process_time() - started)
                    else:
                        firsts.append(wall)
        eager, fused = (statistics.median(seconds) for seconds in took)
        print(
            f"{name:16s} plain {eager * 1e3:8.2f} ms   compiled {fused * 1e3:8.2f} ms   {eager / fused:5.2f} x   "
            f"compiling {firsts[TURN]:5.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
