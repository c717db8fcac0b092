"""Long texts: what a window in blocks, a linear memory and a delta rule save: python bench/long_sequences.py

First the seconds of the mixing alone (queries, keys and values are given, forward and backward) at T = 8192, batch 1,
4 heads of 64, float32, one thread. All sides take turns in one process; the figure is the ratio of the medians, and of
the minima. Then the memory that the same work needs at its peak, over a baseline, each in a process of its own.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from attnlab.attention.base import HeadedAttention
from attnlab.attention.mask import Mask, Window, WindowSinks
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.normalizer import Sink
from attnlab.attention.score import SoftCap
from attnlab.build import attention_factory
from attnlab.config.compose import compose_config
from attnlab.options import part

HEADS, WIDTH, WINDOW = 4, 64, 256
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
AIMS = {
    "window in blocks": ("window as a mask", 8.0),
    "with 4 sinks": ("window as a mask", 8.0),
    "with a learned sink": ("causal SDPA", 1.0),
    "with a cap": ("causal SDPA", 1.0),
    "linear, in chunks": ("causal SDPA", 6.0),
    "gated_delta, in chunks": ("causal SDPA", 1.0),
}
Work = Callable[[], None]


class WindowAsMask(Mask):
    """The same window without a promise of its band, so that it is handed to the kernel as a mask of T x T."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(WINDOW)

    def visible(self, q_pos: torch.Tensor, k_pos: torch.Tensor) -> torch.Tensor:
        return self.window.visible(q_pos, k_pos)


def mixing(layer: HeadedAttention, length: int) -> Work:
    """Forward and backward through `mix`, from queries, keys, values and whatever else the layer makes."""
    with torch.no_grad():
        heads = layer.project(torch.randn(1, length, layer.d_model))
    q, k, v = (x.clone(memory_format=torch.contiguous_format).requires_grad_() for x in heads[:3])
    extra = {name: x.clone().requires_grad_() for name, x in heads.beside().items() if name in ("log_decay", "beta")}
    given, sent = heads._replace(q=q, k=k, v=v, **extra), torch.randn_like(v)  # type: ignore[arg-type]

    def work() -> None:
        torch.autograd.grad(layer.mix(given), [q, k, v, *extra.values()], sent)

    return work


def plain(length: int) -> Work:
    """Causal attention by the fused kernel, without anything of attnlab."""
    q, k, v = (torch.randn(1, HEADS, length, WIDTH, requires_grad=True) for _ in range(3))
    sent = torch.randn_like(v)

    def work() -> None:
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, is_causal=True), [q, k, v], sent)

    return work


def windowed(length: int, mask: Mask, **options: Any) -> Work:
    return mixing(MultiHeadAttention(HEADS * WIDTH, n_heads=HEADS, mask=mask, **options), length)


def shipped(length: int, name: str) -> Work:
    sizes = [f"model.d_model={HEADS * WIDTH}", f"model.n_heads={HEADS}", "position=none"]
    layer = attention_factory(compose_config([f"attention={name}", *sizes]))(HEADS * WIDTH, layer=0, n_layers=1)
    assert isinstance(layer, HeadedAttention)
    return mixing(layer, length)


SIDES: dict[str, Callable[[int], Work]] = {
    "causal SDPA": plain,
    "window as a mask": partial(windowed, mask=part(WindowAsMask)),
    "window in blocks": partial(windowed, mask=part(Window, window=WINDOW)),
    "with 4 sinks": partial(windowed, mask=part(WindowSinks, window=WINDOW, sinks=4)),
    "with a learned sink": partial(windowed, mask=part(Window, window=WINDOW), normalizer=Sink),
    "with a cap": partial(windowed, mask=part(Window, window=WINDOW), score={"cap": SoftCap}),
    "linear, in chunks": partial(shipped, name="linear"),
    "gated_delta, in chunks": partial(shipped, name="gated_delta"),
}
MEASURED = (
    "causal SDPA",
    "window in blocks",
    "with 4 sinks",
    "with a learned sink",
    "with a cap",
    "linear, in chunks",
    "gated_delta, in chunks",
)


def speed(length: int, rounds: int) -> None:
    taken: dict[str, list[float]] = {name: [] for name in SIDES}
    works = {name: make(length) for name, make in SIDES.items()}
    for turn in range(rounds + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if turn:  # the first turn allocates and chooses kernels
                taken[name].append(time.perf_counter() - started)
    print(f"forward + backward, T = {length}, batch 1, {HEADS} heads of {WIDTH}, fp32, 1 thread, {rounds} rounds")
    print(f"  {'':24}{'median s':>9}{'min s':>8}   faster than (median, min)")
    for name, seconds in taken.items():
        line = f"  {name:24}{statistics.median(seconds):9.3f}{min(seconds):8.3f}"
        if name in AIMS:
            base, aim = AIMS[name]
            ratios = [statistics.median(taken[base]) / statistics.median(seconds), min(taken[base]) / min(seconds)]
            line += f"   {base}: {ratios[0]:5.1f} x, {ratios[1]:5.1f} x   aim {aim:g} x"
        print(line, flush=True)


def held(what: str) -> int:
    """Bytes of memory this process holds now (VmRSS), or held at most (VmHWM), as Linux tells."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1])


def measure_memory(name: str, length: int) -> None:
    """Print how far the peak rises above what the process holds with its inputs made and the kernels warm."""
    SIDES[name](64)()
    work = SIDES[name](length)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = held("VmRSS")
    work()
    print(held("VmHWM") - before)


def memory(lengths: tuple[int, ...]) -> None:
    print("\npeak memory of forward + backward above the inputs, MB, each in a process of its own")
    print(f"  {'':24}" + "".join(f"{f'T = {t}':>11}" for t in lengths))
    for name in MEASURED:
        line = f"  {name:24}"
        for length in lengths:
            words = [sys.executable, __file__, "--memory-of", name, str(length)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            line += f"{int(done.stdout) / 1e6:11.1f}"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-of", nargs=2, metavar=("SIDE", "T"), help="used by this script itself")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.memory_of:
        measure_memory(options.memory_of[0], int(options.memory_of[1]))
        return
    speed(options.length, options.rounds)
    memory(LENGTHS)


if __name__ == "__main__":
    main()
