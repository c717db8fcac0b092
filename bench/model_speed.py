"""Our GPT against a hand-written one, per training step: python bench/model_speed.py [--rounds N]

All sides take turns in one process, so that a machine that slows down slows down for both; the figure is the median of
the ratios of each turn. No data, no logging: the model, the loss, the backward pass, clipping and AdamW. With one
thread, seconds are those of the processor. `--nanogpt FOLDER` measures the model.py of a checkout of nanoGPT, too, and
against it, with the AdamW that it takes on a CPU, which is not fused; `--compile` adds compiled sides.
"""

import argparse
import contextlib
import importlib.util
import io
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from yardstick import PlainGPT, loss_of, stepper

from attnlab.attention.embedding import LearnedEmbedding
from attnlab.attention.masked import MaskedAttention
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.position import NoPE
from attnlab.attention.rotary import RoPE
from attnlab.model import GPT
from attnlab.options.model_config import ModelConfig
from attnlab.training.hardware import Sizes, has_native_bfloat16, keep_freed_memory, measure_dtypes

SHAPES = ((4, 4, 128, 12, 64), (6, 6, 384, 8, 256))
VOCABULARY = 512
TURN = 4  # steps that a side makes in a row


def nanogpt(folder: Path, sizes: dict[str, Any]) -> nn.Module:
    """The model of a checkout."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None and spec.loader is not None
    sys.modules["nanogpt_model"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with contextlib.redirect_stdout(io.StringIO()):
        model: nn.Module = module.GPT(module.GPTConfig(**sizes, vocab_size=VOCABULARY, dropout=0.0, bias=False))
    return model


def own_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """nanoGPT gives the logits of all places only beside its own loss."""
    loss: Tensor = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())[1]
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="turns of each side, of four steps each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--nanogpt", type=Path, help="a folder with nanoGPT's model.py")
    parser.add_argument("--compile", action="store_true", help="compiled sides, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    bf16 = has_native_bfloat16("cpu")
    clock = time.process_time if options.threads == 1 else time.perf_counter
    print(f"torch {torch.__version__}, {options.threads} threads, native bfloat16: {bf16}")
    for n_layers, n_heads, d_model, batch, context in SHAPES:
        size: dict[str, Any] = {"context": context, "n_layers": n_layers, "d_model": d_model}
        ids = torch.randint(VOCABULARY, (batch, context + 1), generator=torch.Generator().manual_seed(0))
        attention = partial(MultiHeadAttention, n_heads=n_heads)
        gpt = partial(GPT, vocab_size=VOCABULARY)
        same = partial(gpt, ModelConfig(**size, mlp="gelu"), attention=partial(attention, position=NoPE))
        models: dict[str, Callable[[], nn.Module]] = {
            "hand-written": partial(PlainGPT, n_heads=n_heads, vocab_size=VOCABULARY, **size),
            "attnlab, the same choices": partial(same, embed=LearnedEmbedding),
            "attnlab, default choices": partial(
                gpt, ModelConfig(**size, mlp="relu2"), attention=partial(attention, position=RoPE)
            ),
        }
        if options.nanogpt:
            theirs = {"block_size": context, "n_layer": n_layers, "n_head": n_heads, "n_embd": d_model}
            models = {"nanoGPT": partial(nanogpt, options.nanogpt, theirs), **models}
        measured = measure_dtypes(Sizes(batch, n_heads, context, d_model // n_heads)) if bf16 else {"value": "fp32"}
        print(f"\n{n_layers} layers, {n_heads} heads, {d_model} wide, {batch} x {context} tokens")
        print(f"  under bf16, attention in {measured['value']}")
        sides = dict[str, Callable[[], float]]()
        for precision in ("fp32", "bf16") if bf16 else ("fp32",):
            for compiled in (False, True) if options.compile else (False,):
                for name, build in models.items():
                    model = build()
                    for layer in model.modules():
                        if isinstance(layer, MaskedAttention) and measured["value"] == precision == "bf16":
                            layer.kernel_dtype = torch.bfloat16
                    loss = own_loss if name == "nanoGPT" else loss_of
                    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                        loss(model, ids)  # as in training: what layers keep for a length is not compiled
                    sides[f"{name}, {precision}{', compiled' if compiled else ''}"] = stepper(
                        torch.compile(model, dynamic=False) if compiled else model,  # type: ignore[arg-type]
                        ids,
                        bf16=precision == "bf16",
                        fused=name != "nanoGPT",
                        loss_of=loss,
                        clock=clock,
                    )
        turns: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(options.rounds + 1):
            for name, step in sides.items():
                seconds = [step() for _ in range(TURN)]
                if turn:  # the first turn allocates and chooses kernels
                    turns[name].append(statistics.fmean(seconds[1:]))  # the first step finds the caches full of another
        base = turns[next(iter(sides))]
        for name, taken in turns.items():
            ratio, middle = statistics.median(a / b for a, b in zip(base, taken, strict=True)), statistics.median(taken)
            print(f"  {name:44s} {middle * 1e3:8.2f} ms   {ratio:5.2f} x   {batch * context / middle:9.0f} tokens/s")


if __name__ == "__main__":
    main()
