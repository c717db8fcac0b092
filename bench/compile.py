"""What trainer.compile=true gains, per training step: python bench/compile.py [VARIANT ... | all] [--rounds N]

The same model plain and compiled, as training compiles it: 4 heads, 128 wide, 12 x 64 tokens, float32, one thread. Both
sides take turns, in seconds of the processor, so that a busy machine counts less; the figure is the median over the
rounds of plain time / compiled time, with an interval of that median at 95 % by the ranks that a fair coin gives. The
seconds of compiling are those of the clock.
"""

import argparse
import statistics
import time

import torch
import yardstick
from slots import interval

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.config.keys import options as names_of
from attnlab.training.compiled import compile_network

SIZE = ["model.n_heads=4", "model.d_model=128", "model.context=64", "model.dropout=0.0"]
VARIANTS = ["multi_head", "gqa", "sliding_window", "softcap", "linear", "gated_delta", "rwkv7", "ttt"]
VOCABULARY, TURN = 512, 4  # TURN: steps that a side makes in a row
SLOWER = 0.98  # what busy neighbours make of 1.00


def compare(name: str, layers: int, rounds: int, ids: torch.Tensor) -> float:
    """Prints a line, and returns the upper end of the interval of plain time / compiled time."""
    config = compose_config([f"attention={name}", f"model.n_layers={layers}", *SIZE])
    torch.compiler.reset()  # or the compiler gives up on what many models share
    plain, model = (build_model(config, VOCABULARY) for _ in range(2))
    started = time.perf_counter()
    network = compile_network(model, ids[:, :-1])
    compiling = time.perf_counter() - started
    if network is model:
        print(f"{name:20s} trains uncompiled", flush=True)
        return 0.0
    sides = [yardstick.stepper(plain, ids), yardstick.stepper(network, ids)]  # type: ignore[arg-type]
    took: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for side, step in enumerate(sides):
            started = time.process_time()
            for _ in range(TURN):
                step()
            if turn:
                took[side].append((time.process_time() - started) / TURN)
    ratios = [a / b for a, b in zip(*took, strict=True)]
    low, high = interval(ratios)
    before, after = (1e3 * statistics.median(seconds) for seconds in took)
    print(
        f"{name:20s} plain {before:7.2f} ms   compiled {after:7.2f} ms   {statistics.median(ratios):5.2f} x "
        f"[{low:.2f}, {high:.2f}]   compiling {compiling:5.1f} s{'' if high >= SLOWER else '   SLOWER'}",
        flush=True,
    )
    return high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=VARIANTS)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ids = torch.randint(VOCABULARY, (12, 65), generator=torch.Generator().manual_seed(0))
    variants = names_of("attention") if options.variants == ["all"] else options.variants
    highs = [compare(name, options.layers, options.rounds, ids) for name in variants]
    print(f"not slower: {sum(high >= SLOWER for high in highs)} of {len(highs)}")


if __name__ == "__main__":
    main()
