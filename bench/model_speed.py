"""Our GPT against a hand-written one, per training step: python bench/model_speed.py [--rounds N]

All sides take turns in one process, so that a machine that slows down slows down for both; the figure is the ratio
of the medians. No data, no logging: the model, the loss, the backward pass, clipping and AdamW.
"""

import argparse
import statistics
from functools import partial
from typing import Any

import torch
from yardstick import PlainGPT, stepper

from attnlab.attention.embedding import LearnedEmbedding
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.position import NoPE
from attnlab.attention.rotary import RoPE
from attnlab.model import GPT
from attnlab.options.model_config import ModelConfig
from attnlab.training.hardware import has_native_bfloat16

SHAPES = ((4, 4, 128, 12, 64), (6, 6, 384, 8, 256))
VOCABULARY = 512
TURN = 4  # steps that a side makes in a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="turns of each side, of four steps each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bf16 = has_native_bfloat16("cpu")
    print(f"torch {torch.__version__}, {options.threads} threads, native bfloat16: {bf16}")
    for n_layers, n_heads, d_model, batch, context in SHAPES:
        size: dict[str, Any] = {"context": context, "n_layers": n_layers, "d_model": d_model}
        ids = torch.randint(VOCABULARY, (batch, context + 1), generator=torch.Generator().manual_seed(0))
        attention = partial(MultiHeadAttention, n_heads=n_heads)
        gpt = partial(GPT, vocab_size=VOCABULARY)
        same = partial(gpt, ModelConfig(**size, mlp="gelu"), attention=partial(attention, position=NoPE))
        same = partial(same, embed=LearnedEmbedding)
        default = partial(gpt, ModelConfig(**size, mlp="relu2"), attention=partial(attention, position=RoPE))
        sides = {
            "hand-written, fp32": stepper(PlainGPT(n_heads=n_heads, vocab_size=VOCABULARY, **size), ids),
            "attnlab, the same choices, fp32": stepper(same(), ids),
            "attnlab, default choices, fp32": stepper(default(), ids),
            "attnlab, the same choices, bf16": stepper(same(), ids, bf16=True),
            "attnlab, default choices, bf16": stepper(default(), ids, bf16=True),
            "hand-written under autocast, bf16": stepper(
                PlainGPT(n_heads=n_heads, vocab_size=VOCABULARY, **size), ids, bf16=True
            ),
        }
        if not bf16:
            sides = {name: side for name, side in sides.items() if "bf16" not in name}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(options.rounds + 1):
            for name, step in sides.items():
                seconds = [step() for _ in range(TURN)]
                if turn:  # the first turn allocates and chooses kernels
                    times[name] += seconds[1:]  # the first step of a turn finds the caches full of another model
        base = statistics.median(times["hand-written, fp32"])
        print(f"\n{n_layers} layers, {n_heads} heads, {d_model} wide, {batch} x {context} tokens")
        for name, taken in times.items():
            middle = statistics.median(taken)
            print(
                f"  {name:36s} {middle * 1e3:8.2f} ms   {base / middle:5.2f} x   "
                f"{batch * context / middle:9.0f} tokens/s"
            )


if __name__ == "__main__":
    main()
