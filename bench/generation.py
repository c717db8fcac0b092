"""What a token costs to write: python bench/generation.py [--large] [--tokens N]

Small: 4 layers, 4 heads, 128 wide, a context of 256, tokens/s of `generate` beside a loop that gives the whole text to
the hand-written model of yardstick.py for each token, as nanoGPT's `generate` does, and beside eight texts at once.
With `--large`: variants of constant state at more than 100 million parameters, milliseconds a token over those that
reading the weights once takes, which a sum over as many bytes shows in turn with them; the aim is 2. Greedy, float32,
one thread, seconds of the processor, both sides in turn, the median over the tokens.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from yardstick import PlainGPT

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.generation import generate_batch
from attnlab.model import GPT

VOCABULARY, PROMPT = 512, 16
SMALL = ["model.n_layers=4", "model.n_heads=4", "model.d_model=128", "model.context=256", "model.dropout=0.0"]
LARGE = ["model.n_layers=15", "model.n_heads=12", "model.d_model=768", "model.context=256", "model.dropout=0.0"]
CONSTANT = ["linear", "retention", "gla", "gated_delta", "mamba2", "rwkv7"]


def written(model: GPT, rows: int, tokens: int) -> Callable[[], object]:
    """A function that writes one more token of each of so many texts."""
    stream: Iterator[object] = generate_batch(
        model, torch.zeros(rows, PROMPT, dtype=torch.long), tokens=tokens, temperature=0.0
    )
    return lambda: next(stream)


def by_whole_passes(model: PlainGPT) -> Callable[[], object]:
    """The same by a pass over the whole text for each token."""
    text = torch.zeros(1, PROMPT, dtype=torch.long)

    @torch.inference_mode()
    def one() -> None:
        nonlocal text
        text = torch.cat([text, model(text)[:, -1:].argmax(dim=-1)], dim=1)

    return one


def take_turns(sides: dict[str, Callable[[], object]], tokens: int) -> dict[str, float]:
    """Median seconds of each side; the first two calls allocate, choose kernels, and read the prompt."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(tokens):
        for name, one in sides.items():
            started = time.process_time()
            one()
            if turn >= 2:
                took[name].append(time.process_time() - started)
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def small(tokens: int) -> None:
    model = build_model(compose_config(["attention=multi_head", *SMALL]), VOCABULARY).eval()
    plain = PlainGPT(vocab_size=VOCABULARY, context=256, n_layers=4, n_heads=4, d_model=128).eval()
    sides = {"whole passes": by_whole_passes(plain), "generate": written(model, 1, tokens)}
    took = take_turns({**sides, "generate, 8 texts": written(model, 8, tokens)}, tokens)
    for name, seconds in took.items():
        rows = 8 if name.endswith("texts") else 1
        ratio = took["whole passes"] * rows / seconds
        print(f"  {name:18s} {seconds * 1e3:8.2f} ms a step {rows / seconds:9.0f} tokens/s  {ratio:5.2f} x", flush=True)


def large(names: list[str], tokens: int) -> None:
    for name in names:
        model = build_model(compose_config([f"attention={name}", *LARGE]), VOCABULARY).eval()
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        took = take_turns({"read": weights.sum, "write": written(model, 1, tokens)}, tokens)
        print(
            f"  {name:18s} {weights.numel() / 1e6:5.0f} million parameters, a token {took['write'] * 1e3:7.1f} ms, "
            f"reading the weights {took['read'] * 1e3:6.1f} ms: {took['write'] / took['read']:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", nargs="*", choices=CONSTANT, metavar="VARIANT", help="of constant state; none: all")
    parser.add_argument("--tokens", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.large is None:
        small(options.tokens)
    else:
        large(options.large or CONSTANT, options.tokens)


if __name__ == "__main__":
    main()
