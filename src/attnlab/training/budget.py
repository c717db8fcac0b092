"""What the layers of a model, or of a config, spend, counted by running them: parameters, FLOPs, decode state, seconds.

Token embedding, positions and head are left out: they are the same for all variants, and a large vocabulary would hide
differences behind them.
"""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.attention.base import Shared
from attnlab.attention.cost import count_flops, tensor_bytes
from attnlab.build import build_model
from attnlab.config.run_config import RunConfig
from attnlab.model import GPT

TOLERANCE = 0.01  # of a budget; a residual beyond it is reported
GRAIN = 8  # widths are multiples of this where they can be
UNITS = {
    "params": "parameters of the layers",
    "flops": "training FLOPs of the layers per token",
    "state": "bytes of decode state",
    "tokens": "training tokens",
    "time": "seconds a step of the layers",
}
BUILT_FROM = ("model", "attention", "position", "allow_targets")  # the groups that decide what a model spends
WARM_UP, FEWEST_STEPS, MOST_STEPS, PROBE_SECONDS = 2, 5, 200, 1.0


def parameters(model: GPT) -> int:
    """Trained scalars of all blocks; what layers share counts once."""
    return sum(p.numel() for p in model.blocks.parameters() if p.requires_grad)


def training_flops(model: GPT) -> int:
    """FLOPs of one training sequence, forward and backward: matrix products and convolutions, 2 per multiply-add.

    Counted on torch's meta device at model.context tokens, with the operations that training performs: a mask that is
    computed in full counts in full, a window that is computed in blocks counts its blocks.
    """
    x = torch.empty(1, model.context, width(model), device="meta", requires_grad=True)
    return count_flops(lambda: _through(model, x).sum().backward(), gradients=True)


def state_bytes(model: GPT) -> int:
    """Bytes that decoding keeps after model.context tokens, all layers together."""
    constant = all(block.attention.traits.growth == "constant" for block in model.layers)
    ids = torch.zeros(1, 1 if constant else model.context, dtype=torch.long, device="meta")
    model.eval()
    with torch.no_grad():
        return tensor_bytes(model.step(ids, model.init_state(1, model.context))[1].layers)


def step_seconds(models: Sequence[GPT], batch_size: int, *, bf16: bool) -> list[float]:
    """Median seconds of one forward and backward pass of each model, measured in turn so that all see the same load."""
    device = next(models[0].parameters()).device
    inputs = [torch.randn(batch_size, model.context, width(model), device=device) for model in models]
    took: list[list[float]] = [[] for _ in models]
    end = time.perf_counter() + PROBE_SECONDS * len(models)
    for i in range(WARM_UP + MOST_STEPS):
        for model, x, seconds in zip(models, inputs, took, strict=True):
            started = time.perf_counter()
            model.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                out = _through(model, x.requires_grad_())
            out.sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i >= WARM_UP:
                seconds.append(time.perf_counter() - started)
        if i + 1 >= WARM_UP + FEWEST_STEPS and time.perf_counter() > end:
            break
    return [statistics.median(seconds) for seconds in took]


def width(model: GPT) -> int:
    """How many numbers stand for a token between the layers."""
    return model.embedding.embedding_dim


def _through(model: GPT, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
    shared = Shared()
    for block in model.layers:
        x = block(x, shared)
    return x


COUNTS = {"params": parameters, "flops": training_flops, "state": state_bytes}


def build_to_measure(config: RunConfig, device: str = "meta") -> GPT:
    """The model of a config; on the meta device it holds no numbers."""
    with torch.device(device):
        return build_model(replace(config, streams=replace(config.streams, init=0)), vocab_size=2)


def count_budget(config: RunConfig, mode: str) -> int:
    """What the model of a config spends. Training FLOPs are per token."""
    parts = {group: settings for group, settings in config.as_dict().items() if group in BUILT_FROM}
    return _count(mode, json.dumps(parts))


@lru_cache(maxsize=1024)  # the jobs of a sweep ask the same again and again
def _count(mode: str, parts: str) -> int:
    model = build_to_measure(RunConfig.of(json.loads(parts)))
    return COUNTS[mode](model) // (model.context if mode == "flops" else 1)
