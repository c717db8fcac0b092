"""Long texts: what a window in blocks, a linear memory and a delta rule save: python bench/long_sequences.py

First the seconds of the mixing alone (queries, keys and values are given, forward and backward) at T = 8192, batch 1,
4 heads of 64, float32, one thread. All sides take turns in one process; the figure is the ratio of the medians, and of
the minima. Then the memory that the same work needs at its peak, over a baseline, each in a process of its own.

With --memories every variant whose state does not grow, beside causal SDPA, in seconds of the processor, which another
busy process moves less than the clock's; SDPA takes its turn after every third. With --growth how FLOPs and seconds
grow from 512 to 2048 tokens in variants that should work in T times a window: 4 times, not 16.
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
from torch.utils._pytree import tree_map_only

from attnlab.attention.base import Attention, HeadedAttention
from attnlab.attention.mask import Mask, Window, WindowSinks
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.normalizer import Sink
from attnlab.attention.score import SoftCap
from attnlab.build import attention_factory
from attnlab.config.compose import compose_config
from attnlab.config.keys import options
from attnlab.options import part

HEADS, WIDTH, WINDOW = 4, 64, 256
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
GROWN = (512, 2048)  # at 8192 tokens those that grow with T^2 take half a minute a pass
AIMS = {
    "window in blocks": ("window as a mask", 8.0),
    "with 4 sinks": ("window as a mask", 8.0),
    "with a learned sink": ("causal SDPA", 1.0),
    "with a cap": ("causal SDPA", 1.0),
    "linear, in chunks": ("causal SDPA", 6.0),
    "gated_delta, in chunks": ("causal SDPA", 1.0),
}
POSITIONS = {"hca": "rope_partial", "csa": "rope_partial"}
WINDOWED = ("sliding_window", "window_sinks", "chunked", "dilated", "gpt_oss", "hca", "csa", "moba", "msa", "nsa")
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
    leaves = list[torch.Tensor]()

    def as_leaf(x: torch.Tensor) -> torch.Tensor:
        if x.is_floating_point():
            leaves.append(x := x.clone(memory_format=torch.contiguous_format).requires_grad_())
        return x

    given = tree_map_only(torch.Tensor, as_leaf, heads)
    with torch.no_grad():
        sent = torch.randn_like(layer.mix(given))

    def work() -> None:
        torch.autograd.grad(layer.mix(given), leaves, sent, allow_unused=True)  # a gate is used behind `mix`

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


def built(name: str) -> Attention:
    sizes = [f"model.d_model={HEADS * WIDTH}", f"model.n_heads={HEADS}", f"position={POSITIONS.get(name, 'none')}"]
    return attention_factory(compose_config([f"attention={name}", *sizes]))(
        HEADS * WIDTH, layer=0, n_layers=1, context=LENGTHS[-1]
    )


def shipped(length: int, name: str) -> Work:
    layer = built(name)
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


def remembers(name: str) -> bool:
    """Whether a variant is one kind of layer, with queries and a state that does not grow."""
    layer = built(name)
    return isinstance(layer, HeadedAttention) and layer.traits.growth == "constant" and layer.traits.can_recall


def memories(length: int, rounds: int) -> None:
    """Seconds of the processor, the fastest of all rounds; of SDPA the fastest of all its turns."""
    works = {name: shipped(length, name) for name in options("attention") if remembers(name)}
    usual, turns = plain(length), []
    taken: dict[str, list[float]] = {name: [] for name in works}
    usual()
    for turn in range(rounds + 1):
        for number, (name, work) in enumerate(works.items()):
            if turn and number % 3 == 0:
                turns.append(processor_seconds(usual))
            seconds = processor_seconds(work)
            if turn:
                taken[name].append(seconds)
    print(f"processor seconds, forward + backward, T = {length}, one thread, {rounds} rounds; faster than causal SDPA")
    print(f"  {'causal SDPA':20}{min(turns):8.3f}  (median {statistics.median(turns):.3f})")
    for name, each in sorted(taken.items(), key=lambda item: min(item[1])):
        ratios = [min(turns) / min(each), statistics.median(turns) / statistics.median(each)]
        print(f"  {name:20}{min(each):8.3f}{ratios[0]:8.2f} x{ratios[1]:8.2f} x", flush=True)


def processor_seconds(work: Work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def growth(rounds: int) -> None:
    """FLOPs of a layer and seconds of its passes, by how much both grow when the text is four times as long."""
    short, long = GROWN
    print(f"  {f'from {short} to {long}':20}{'FLOPs':>8}{'seconds':>9}   (T times a window: 4, T^2: 16)")
    for name in WINDOWED:
        layer, seconds = built(name), []
        forth_and_back(layer, torch.randn(1, WINDOW, HEADS * WIDTH, requires_grad=True))
        for length in GROWN:
            x = torch.randn(1, length, HEADS * WIDTH, requires_grad=True)
            seconds.append(fastest(partial(forth_and_back, layer, x), rounds))
        flops = layer.cost(long).forward_flops / layer.cost(short).forward_flops
        print(f"  {name:20}{flops:8.2f}{seconds[1] / seconds[0]:9.2f}   {seconds[1]:.2f} s", flush=True)


def fastest(work: Work, rounds: int) -> float:
    """Seconds of the processor, of so many rounds, or of those that begin within two seconds."""
    seconds = [processor_seconds(work)]
    while len(seconds) < rounds and sum(seconds) < 2.0:
        seconds.append(processor_seconds(work))
    return min(seconds)


def forth_and_back(layer: Attention, x: torch.Tensor) -> None:
    torch.autograd.grad(layer(x).sum(), [x])


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
    parser.add_argument("--memories", action="store_true", help="all variants whose state does not grow")
    parser.add_argument("--growth", action="store_true", help="variants with a window, at 512 and 2048 tokens")
    parser.add_argument("--memory-of", nargs=2, metavar=("SIDE", "T"), help="used by this script itself")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if chosen.memory_of:
        measure_memory(chosen.memory_of[0], int(chosen.memory_of[1]))
        return
    if chosen.memories:
        memories(chosen.length, chosen.rounds)
    if chosen.growth:
        growth(chosen.rounds)
    if not chosen.memories and not chosen.growth:
        speed(chosen.length, chosen.rounds)
        memory(LENGTHS)


if __name__ == "__main__":
    main()
