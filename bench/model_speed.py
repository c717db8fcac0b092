"""Our GPT against a hand-written one, per training step: python bench/model_speed.py [--rounds N]

Each side has a process for itself, as a training run has, for many models in one process take each other's memory: a
step then costs a quarter more, and the quicker it is, the more. They take turns, so that a machine that slows down
slows down for all; the figure is the median of the ratios of each turn. No data, no logging: the model, the loss, the
backward pass, clipping and AdamW. With one thread, seconds are those of the processor. `--nanogpt FOLDER` measures the
model.py of a checkout of nanoGPT, too, and against it, with the AdamW that it takes on a CPU, which is not fused;
`--compile` adds compiled sides.
"""

import argparse
import contextlib
import importlib.util
import io
import multiprocessing
import statistics
import sys
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

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
from attnlab.training.compiled import compiled
from attnlab.training.hardware import Sizes, has_native_bfloat16, keep_freed_memory, measure_dtypes

VOCABULARY = 512


class Shape(NamedTuple):
    """Sizes of a model and of its batches, and how many steps a side makes in a row."""

    n_layers: int
    n_heads: int
    d_model: int
    batch: int
    context: int
    turn: int


SHAPES = (Shape(4, 4, 128, 12, 64, 12), Shape(6, 6, 384, 8, 256, 4))


class Side(NamedTuple):
    """One of those that are compared."""

    name: str
    bf16: bool
    compiled: bool

    def __str__(self) -> str:
        return f"{self.name}, {'bf16' if self.bf16 else 'fp32'}{', compiled' if self.compiled else ''}"


NANOGPT, HAND, SAME, DEFAULT = "nanoGPT", "hand-written", "attnlab, the same choices", "attnlab, default choices"


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


def build(name: str, shape: Shape, folder: Path | None) -> nn.Module:
    """The model of a side."""
    size: dict[str, Any] = {"context": shape.context, "n_layers": shape.n_layers, "d_model": shape.d_model}
    attention = partial(MultiHeadAttention, n_heads=shape.n_heads)
    if name == NANOGPT:
        assert folder is not None
        theirs = {"block_size": shape.context, "n_layer": shape.n_layers, "n_head": shape.n_heads}
        return nanogpt(folder, {**theirs, "n_embd": shape.d_model})
    if name == HAND:
        return PlainGPT(n_heads=shape.n_heads, vocab_size=VOCABULARY, **size)
    gpt = partial(GPT, vocab_size=VOCABULARY)
    if name == SAME:
        config = ModelConfig(**size, mlp="gelu")
        return gpt(config, attention=partial(attention, position=NoPE), embed=LearnedEmbedding)
    return gpt(ModelConfig(**size, mlp="relu2"), attention=partial(attention, position=RoPE))


def train(side: Side, shape: Shape, *, threads: int, folder: Path | None, half: bool, turns: Connection) -> None:
    """Make a turn whenever asked to, and answer with the seconds of one of its steps; the body of a process."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    ids = torch.randint(VOCABULARY, (shape.batch, shape.context + 1), generator=torch.Generator().manual_seed(0))
    model = build(side.name, shape, folder)
    for layer in model.modules():
        if isinstance(layer, MaskedAttention) and half and side.bf16:
            layer.kernel_dtype = torch.bfloat16
    loss = own_loss if side.name == NANOGPT else loss_of
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=side.bf16):
        loss(model, ids)  # as in training: what layers keep for a length is not compiled
    step = stepper(
        compiled(model, torch.device("cpu")) if side.compiled else model,  # type: ignore[arg-type]
        ids,
        bf16=side.bf16,
        fused=side.name != NANOGPT,
        loss_of=loss,
        clock=time.process_time if threads == 1 else time.perf_counter,
    )
    for _ in range(3):  # allocates, compiles and chooses kernels
        step()
    turns.send(0.0)
    while turns.recv():
        step()  # finds the caches full of another's numbers
        turns.send(statistics.fmean(step() for _ in range(shape.turn)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="turns of each side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--nanogpt", type=Path, help="a folder with nanoGPT's model.py")
    parser.add_argument("--compile", action="store_true", help="compiled sides, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bf16 = has_native_bfloat16("cpu")
    print(f"torch {torch.__version__}, {options.threads} threads, native bfloat16: {bf16}")
    names = [NANOGPT] * bool(options.nanogpt) + [HAND, SAME, DEFAULT]
    sides = [
        Side(name, half, fused)
        for half in ((False, True) if bf16 else (False,))
        for fused in ((False, True) if options.compile else (False,))
        for name in names
    ]
    for shape in SHAPES:
        sizes = Sizes(shape.batch, shape.n_heads, shape.context, shape.d_model // shape.n_heads)
        measured = measure_dtypes(sizes)["value"] if bf16 else "fp32"
        heads, tokens = f"{shape.n_layers} layers, {shape.n_heads} heads", f"{shape.batch} x {shape.context} tokens"
        print(f"\n{heads}, {shape.d_model} wide, {tokens}")
        print(f"  under bf16, attention in {measured}", flush=True)
        report(measure(sides, shape, measured == "bf16", options), shape)


def measure(sides: list[Side], shape: Shape, half: bool, options: argparse.Namespace) -> dict[Side, list[float]]:
    """Seconds a step of each side, turn by turn."""
    fresh = multiprocessing.get_context("spawn")
    ends, processes = dict[Side, Connection](), []
    for side in sides:
        ends[side], other = fresh.Pipe()
        setting = {"threads": options.threads, "folder": options.nanogpt, "half": half, "turns": other}
        processes.append(fresh.Process(target=train, args=(side, shape), kwargs=setting, daemon=True))
        processes[-1].start()
        other.close()  # so that a process that fails ends this one, too
        ends[side].recv()
    taken: dict[Side, list[float]] = {side: [] for side in sides}
    for turn in range(options.rounds):
        for side in sides if turn % 2 else reversed(sides):
            ends[side].send(True)
            taken[side].append(ends[side].recv())
    for side, process in zip(sides, processes, strict=True):
        ends[side].send(False)
        process.join()
    return taken


def report(taken: dict[Side, list[float]], shape: Shape) -> None:
    """A line for each side."""
    base = taken[next(iter(taken))]
    for side, seconds in taken.items():
        ratio = statistics.median(a / b for a, b in zip(base, seconds, strict=True))
        middle = statistics.median(seconds)
        tokens = shape.batch * shape.context / middle
        print(f"  {side!s:44s} {middle * 1e3:8.2f} ms   {ratio:5.2f} x   {tokens:9.0f} tokens/s")


if __name__ == "__main__":
    main()
