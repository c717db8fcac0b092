"""What one more token costs after 1k, 4k and 16k tokens, for every variant: python bench/decoding.py [--write]

For each preset of configs/attention, and for each of its layers that differ: the bytes of decode state after T tokens,
and the milliseconds of one more token. A state has room for exactly T tokens. A cache of all rows starts with random
rows, since what they hold costs nothing; every other state reads a prompt, in pieces of 256 and not token by token. The
last tokens are decoded one by one and timed, the three lengths taking turns, so that all of them meet the same moods of
the machine; the time is that of the processor, which other processes do not lengthen. Batch 1, one layer of 4 heads,
128 wide, float32, one thread, eager. What is too large, too slow, or takes longer than `--budget` seconds to read, is
left out with the reason. `--write` writes docs/decoding.md.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from attnlab.attention.base import Attention, Shared, State
from attnlab.attention.cache import Cache
from attnlab.attention.cost import tensor_bytes
from attnlab.attention.softmax import SoftmaxAttention, SoftmaxState
from attnlab.build import attention_factory
from attnlab.config.compose import compose_config, config_dir
from attnlab.laws.layer_in_stack import layers_in_stack
from attnlab.laws.subject import CONTEXT, subject_of

PAGE = Path(__file__).parents[1] / "docs" / "decoding.md"
D_MODEL, HEADS, PIECE, DEPTH = 128, 4, 256, 8  # eight layers show the longest pattern of the presets
LARGEST = 2**30  # bytes of parameters of one layer
SLOWEST = 1.0  # seconds for one token, as far as shorter prompts tell
WARM = 2  # tokens that are decoded before the first that is timed


INTRODUCTION = """# What one more token costs

Written by `{words}`, with torch {version} for CPUs.

One layer of 4 heads, 128 wide, batch 1, float32, one thread, eager. KiB: the decode state after T tokens. ms: the
median time of one more token, of the processor, with the lengths taking turns. A cache of all rows starts with random
rows; every other state has read a prompt. Variants whose layers differ have a row for each kind of layer, named after
the first of them; a layer that reads what those below publish is timed alone, and "below" stands for the growth of one
that keeps nothing itself. Times under 0.5 ms are mostly the handling of small operations: compare within a row.
"""


class TooMuch(Exception):
    """Why a length is left out, in a few words."""


class Row(NamedTuple):
    """One layer of a preset: per length, bytes of state and seconds per token, or the reason why there are none."""

    name: str
    growth: str
    state: dict[int, int]
    seconds: dict[int, float]
    left_out: dict[int, str]


def kinds(name: str) -> Iterator[tuple[str, int, int]]:
    """A label, the number and how many layers it reads from, of every layer of a preset that may cost differently."""
    seen = set()
    for placed in layers_in_stack(subject_of(name, [f"model.n_layers={DEPTH}"])):
        layer, shapes = placed.layer, [parameter.shape for parameter in placed.layer.parameters()]
        modules = [type(module) for module in layer.modules()]
        kind = (*modules, *shapes, layer.traits, layer.pairs(CONTEXT))
        if kind not in seen:
            seen.add(kind)
            yield placed.label.rstrip(": "), layer.layer, len(placed.below)


def filled(state: SoftmaxState, length: int) -> SoftmaxState:
    """The state with random rows in place of those of `length` tokens."""
    k, v = (torch.randn_like(rows) for rows in state.cache[:2])
    return state._replace(cache=Cache(k, v, length))


class Decoder:
    """A layer above those that it reads from, all of them after some tokens; only the layer itself is timed."""

    def __init__(self, name: str, index: int, n_below: int, length: int) -> None:
        sizes = [f"model.d_model={D_MODEL}", f"model.n_heads={HEADS}", f"model.context={length}"]
        factory = attention_factory(compose_config([f"attention={name}", *sizes]))
        self.layers: list[Attention] = []
        for i in (*range(n_below), index):
            with torch.device("meta"):
                weight = tensor_bytes(list(factory(D_MODEL, layer=i, n_layers=DEPTH, context=length).parameters()))
            if weight > LARGEST:
                raise TooMuch(f"its parameters alone are {weight / 2**30:.1f} GiB")
            self.layers.append(factory(D_MODEL, layer=i, n_layers=DEPTH, context=length).eval())
        self.states: list[State] = [layer.init_state(1, length) for layer in self.layers]

    @property
    def top(self) -> Attention:
        return self.layers[-1]

    def read(self, length: int, budget: float) -> None:
        """Take in a prompt of this length, or rows as such a prompt would leave them."""
        keep_all = all(isinstance(layer, SoftmaxAttention) and layer.mask.cache_size is None for layer in self.layers)
        if keep_all and all(type(state) is SoftmaxState for state in self.states):
            self.states = [filled(state, length) for state in self.states]
            return
        started = time.thread_time()
        for begin in range(0, length, PIECE):
            self.step(min(PIECE, length - begin))
            if time.thread_time() - started > budget:
                raise TooMuch(f"reading a prompt takes more than {budget:g} s")

    def step(self, n: int) -> float:
        """Take in n more tokens; the seconds that the layer itself needed."""
        x, shared, taken = torch.randn(1, n, D_MODEL), Shared(), 0.0
        for i, layer in enumerate(self.layers):
            started = time.thread_time()
            _, self.states[i] = layer.step(x, self.states[i], shared)
            taken = time.thread_time() - started
        return taken


@torch.no_grad()
def measured(name: str, label: str, index: int, n_below: int, options: argparse.Namespace) -> Row:
    """One row: the decoders of all lengths are made ready first, then take turns."""
    ready: dict[int, Decoder] = {}
    left_out: dict[int, str] = {}
    growth, before, probe = "", 1, 0.0
    for length in options.lengths:
        try:
            if probe * (length / before) ** 2 > SLOWEST:
                raise TooMuch(f"one token after {before} takes {probe:.2g} s already")
            decoder = Decoder(name, index, n_below, length)
            traits = decoder.top.traits
            growth = "below" if traits.requires and traits.growth == "constant" else traits.growth
            decoder.read(length - WARM - options.tokens, options.budget)
            before, probe = length, min(decoder.step(1) for _ in range(WARM))
            ready[length] = decoder
        except TooMuch as reason:
            left_out[length] = str(reason)
    taken: dict[int, list[float]] = {length: [] for length in ready}
    for _ in range(options.tokens):
        for length, decoder in ready.items():
            taken[length].append(decoder.step(1))
    return Row(
        name=f"{name}, {label}" if label else name,
        growth=growth,
        state={length: tensor_bytes(decoder.states[-1]) for length, decoder in ready.items()},
        seconds={length: statistics.median(found) for length, found in taken.items()},
        left_out=left_out,
    )


def cells(row: Row, lengths: list[int]) -> list[str]:
    """The row as words: state and time at each length, and how often each is of the first at the last."""
    found = [row.name, row.growth]
    for values, form, scale in ((row.state, "{:,.1f}", 1024), (row.seconds, "{:.3f}", 1e-3)):
        found += [form.format(values[length] / scale) if length in values else "-" for length in lengths]
        first, last = values.get(lengths[0]), values.get(lengths[-1])
        found.append(f"{last / first:.2f}" if first and last is not None else "-")
    return found


def header(lengths: list[int]) -> list[str]:
    named = [f"{length // 1024}k" if length % 1024 == 0 else str(length) for length in lengths]
    ratio = f"{named[-1]} / {named[0]}"
    return ["variant", "growth", *(f"KiB {n}" for n in named), ratio, *(f"ms {n}" for n in named), ratio]


def summary(rows: list[Row], lengths: list[int]) -> list[str]:
    """What the table shows about variants whose state is bounded, and about those whose state grows."""
    lines = []
    for growth in ("constant", "window", "linear"):
        whole = [row for row in rows if row.growth == growth and not row.left_out and row.seconds]
        if whole:
            ratios = {row.name: row.seconds[lengths[-1]] / row.seconds[lengths[0]] for row in whole}
            low, middle, high = min(ratios.values()), statistics.median(ratios.values()), max(ratios.values())
            worst = max(ratios, key=lambda name: ratios[name])
            lines.append(
                f"{growth}: time per token at {lengths[-1]} over {lengths[0]} is {middle:.2f} in the median of "
                f"{len(whole)} layers, {low:.2f} to {high:.2f} ({worst})"
            )
    lines += [f"{row.name} at {length}: {why}" for row in rows for length, why in row.left_out.items()]
    return lines


def page(rows: list[Row], lengths: list[int], words: str) -> str:
    """The Markdown page."""
    heads = header(lengths)
    table = [heads, ["---", "---", *["---:"] * (len(heads) - 2)], *(cells(row, lengths) for row in rows)]
    lines = ["| " + " | ".join(line) + " |" for line in table]
    notes = [f"- {line}" for line in summary(rows, lengths)]
    return "\n".join([INTRODUCTION.format(words=words, version=torch.__version__), *lines, "", *notes, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = sorted(file.stem for file in (config_dir() / "attention").glob("*.yaml"))
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--tokens", type=int, default=15, help="tokens that are timed at each length")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds to read one prompt, at most")
    parser.add_argument("--names", nargs="+", default=every, choices=every, metavar="PRESET")
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[Row] = []
    form = "{:30}{:>9}" + "{:>10}" * len(options.lengths) + "{:>10}" + "{:>9}" * len(options.lengths) + "{:>10}"
    print(form.format(*header(options.lengths)), flush=True)
    for name in options.names:
        for label, index, n_below in kinds(name):
            rows.append(measured(name, label, index, n_below, options))
            print(form.format(*cells(rows[-1], options.lengths)), flush=True)
    print("\n" + "\n".join(summary(rows, options.lengths)))
    if options.write:
        PAGE.write_text(page(rows, options.lengths, " ".join(["python bench/decoding.py", *sys.argv[1:]])))
        print(f"written: docs/{PAGE.name}")


if __name__ == "__main__":
    main()
