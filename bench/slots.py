"""What the slots cost: our multi_head layer against a hand-written attention block: python bench/slots.py

Forward and backward, float32, one thread, no position inside, the same weights on both sides. The block has one matrix
for q, k and v, the fused kernel and an output matrix, and imports nothing of ours; `apart` is the same block with three
matrices, which is what we have. All sides take turns within one process, in an order that turns, and the figure is the
median over the rounds of hand-written time / our time: 1.00 is as fast, 0.97 is 3 % slower. The interval is of that
median, at 95 %, by the ranks that a fair coin gives. Seconds are of the processor.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.attention.base import Attention
from attnlab.build import attention_factory
from attnlab.config.compose import compose_config

SIZES = ((128, 64, 12), (256, 256, 4), (512, 1024, 1))  # width, tokens, rows
HEADS = 4
AIM = 0.97


class Plain(nn.Module):
    """Causal attention as a small script would write it."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.n_heads, c // self.n_heads).transpose(1, 2) for y in self.qkv(x).split(c, dim=2))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(o.transpose(1, 2).reshape(b, t, c))


class Apart(nn.Module):
    """The same with a matrix each for q, k and v."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (to(x).view(b, t, self.n_heads, c // self.n_heads).transpose(1, 2) for to in (self.q, self.k, self.v))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(o.transpose(1, 2).reshape(b, t, c))


def sides(d_model: int) -> dict[str, nn.Module]:
    """The three layers with one set of weights."""
    sizes = [f"model.d_model={d_model}", f"model.n_heads={HEADS}", "model.dropout=0.0", "position=none"]
    ours: Attention = attention_factory(compose_config(["attention=multi_head", *sizes]))(d_model, layer=0, n_layers=1)
    plain, apart = Plain(d_model, HEADS), Apart(d_model, HEADS)
    weights: list[Tensor] = [
        ours.get_parameter(name) for name in ("qkv.to_q.weight", "qkv.to_k.weight", "qkv.to_v.weight")
    ]
    with torch.no_grad():
        plain.qkv.weight.copy_(torch.cat(weights))
        for linear, weight in zip((apart.q, apart.k, apart.v), weights, strict=True):
            linear.weight.copy_(weight)
        for block in (plain, apart):
            block.out.weight.copy_(ours.get_parameter("to_out.weight"))
    return {"hand-written": plain, "apart": apart, "ours": ours}


def seconds(layer: Callable[[Tensor], Tensor], x: Tensor, sent: Tensor, repeats: int) -> float:
    """Mean time of forward and backward."""
    started = time.thread_time()
    for _ in range(repeats):
        layer(x).backward(sent)
    return (time.thread_time() - started) / repeats


def interval(values: list[float]) -> tuple[float, float]:
    """Where the median is, at 95 %: order statistics, whatever the distribution."""
    ordered, n = sorted(values), len(values)
    reach = math.ceil(1.96 * math.sqrt(n) / 2)
    return ordered[max(0, n // 2 - reach)], ordered[min(n - 1, n // 2 + reach)]


def compare(d_model: int, length: int, batch: int, rounds: int) -> None:
    layers = sides(d_model)
    x, sent = torch.randn(batch, length, d_model, requires_grad=True), torch.randn(batch, length, d_model)
    with torch.no_grad():
        results = [layer(x) for layer in layers.values()]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])  # the same work, before its time is compared
    once = max(seconds(layer, x, sent, 3) for layer in layers.values())
    repeats = max(
        1, round(0.02 / once)
    )  # a turn is long enough for the clock, and short enough for the machine's moods
    taken: dict[str, list[float]] = {name: [] for name in layers}
    names = list(layers)
    for turn in range(rounds):
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]
            taken[name].append(seconds(layers[name], x, sent, repeats))
    print(f"{batch} x {length} tokens, {d_model} wide, {HEADS} heads, {rounds} rounds of {repeats}")
    for base in ("hand-written", "apart"):
        ratios = [a / b for a, b in zip(taken[base], taken["ours"], strict=True)]
        low, high = interval(ratios)
        ms = [1e3 * statistics.median(taken[side]) for side in (base, "ours")]
        speed = f"speed {statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]   aim {AIM}"
        print(f"  {base:12} {ms[0]:8.3f} ms   ours {ms[1]:8.3f} ms   {speed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=151)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for size in SIZES:
        compare(*size, rounds=options.rounds)


if __name__ == "__main__":
    main()
