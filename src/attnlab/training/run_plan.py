"""plan=true for one run: a table of what it takes. Nothing is trained, and nothing written but the cache of tokens."""

from dataclasses import replace
from typing import NamedTuple

import torch

from attnlab.build import build_model
from attnlab.config.run_config import RunConfig
from attnlab.data.batches import TokenSplits
from attnlab.errors import UsageError
from attnlab.training.hardware import device_name, memory_bytes, resolve_accelerator, usual_dtype
from attnlab.training.notes import data_size, duration
from attnlab.training.prepare import Common, Prepared, prepare
from attnlab.training.resolved import AUTO
from attnlab.training.resources import (
    device_memory,
    disk_bytes,
    forward_flops,
    passes,
    peak_flops,
    try_steps,
)

USUAL_MFU = 0.4  # where nothing tells: large models reach .3 to .5 (arXiv 2204.02311, 2104.04473)
LONGEST_STEP = 2.0  # seconds that one batch may take here, or none is tried
PROBE_SECONDS = 1.5


class Pace(NamedTuple):
    """FLOP/s of a device, the share of it that training reaches, and where both numbers come from."""

    peak: float
    mfu: float
    source: str


def show_plan(config: RunConfig, variant: str) -> None:
    """Print what the run of a checked config takes; raises UsageError for what cannot work on any machine."""
    prepared, is_here = _prepare(config, variant)
    config, splits, trainer = prepared.config, prepared.splits, prepared.config.trainer
    n_vocab, world = prepared.tokenizer.n_vocab, trainer.devices * trainer.nodes
    with torch.device("meta"):
        model = build_model(config, n_vocab).eval()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = config.batch_size * trainer.accumulate
    tokens, step_flops = rows * config.model.context, passes(config) * rows * forward_flops(model, {})
    memory = device_memory(config, n_vocab, prepared.recipe)
    epochs = ""
    if isinstance(splits, TokenSplits):
        epochs = f", {tokens * trainer.max_steps / len(splits.train):.3g} times the {len(splits.train):,} of the text"
    elif (rounds := splits.epochs(rows * trainer.max_steps, config.model.context)) is not None:
        epochs = f", {rounds:.3g} times all training rows"
    device = "GPU, which is not here" if not is_here else device_name(prepared.machine.accelerator)
    share = f"{config.batch_size // world} of {config.batch_size} rows of {config.model.context} tokens"
    parts = world if trainer.strategy == "fsdp" else 1  # of which each device has one
    disk = disk_bytes(config, parts * memory.weights, parts * memory.optimizer)
    table = {
        "variant": f"{prepared.identity.variant} of {config.model.n_layers} layers, {config.model.d_model} wide",
        "parameters": f"{model.n_parameters:,}" + (f", {trained:,} trained" if trained != model.n_parameters else ""),
        "devices": f"{world} ({device}), {trainer.precision}, strategy {trainer.strategy}",
        "tokens": f"{tokens * trainer.max_steps:,}: {trainer.max_steps:,} steps of {tokens:,}{epochs}",
        "FLOPs": f"{step_flops:.3g} a step, {step_flops * trainer.max_steps:.3g} in all (matrix products, both ways)",
        "memory": f"{data_size(memory.total)} a device, and what a step makes in passing{_fits(memory.total, is_here)}",
        "  weights": data_size(memory.weights),
        "  gradients": data_size(memory.gradients),
        "  optimizer": data_size(memory.optimizer),
        "  activations": f"{data_size(memory.activations)}, of {share}",
        "  communication": data_size(memory.communication),
        "disk": f"{data_size(disk)}, most of it two checkpoints",
        "time": _time(prepared, step_flops, is_here),
    }
    for name, text in table.items():
        print(f"{name:15}  {text}")


def _prepare(config: RunConfig, variant: str) -> tuple[Prepared, bool]:
    """What a run would find out before its first step, and whether its devices are here; if not, it is asked of a CPU.

    What `auto` comes to is read from the experiment, if that has begun, and else written nowhere. What only a device
    that is not here can do is asked of nobody, and stands in the config again.
    """
    trainer = asked = config.trainer
    try:
        resolve_accelerator(trainer.accelerator, trainer.devices)
        is_here = True
    except UsageError:
        is_here = False
        trainer = replace(trainer, accelerator="cpu")
        if trainer.precision in (AUTO, "fp16"):
            trainer = replace(trainer, precision="bf16")
        trainer = replace(trainer, attention_dtype=usual_dtype(trainer.precision), attention_backend="torch")
    common = Common(of_any_size=True, begins=False)
    prepared = prepare(replace(config, trainer=trainer), variant, common=common)
    if not is_here:
        settled = prepared.config.trainer
        if asked.precision != AUTO:
            settled = replace(settled, precision=asked.precision)
        if asked.attention_backend != AUTO:
            settled = replace(settled, attention_backend=asked.attention_backend)
        prepared = prepared._replace(config=replace(prepared.config, trainer=settled))
    return prepared, is_here


def _time(prepared: Prepared, step_flops: int, is_here: bool) -> str:
    trainer = prepared.config.trainer
    speed = _speed(prepared, step_flops, is_here)
    if speed is None:
        return "unknown: assume.peak_flops=... says what a device does that is not here"
    world = trainer.devices * trainer.nodes
    apart = world if prepared.machine.accelerator != "cpu" or not is_here else 1
    seconds = step_flops * trainer.max_steps / (speed.peak * speed.mfu * apart)
    shared = "; processes share the cores" if apart < world else ""
    how = f"{speed.mfu:.2g} of {speed.peak:.3g} FLOP/s {'each' if apart > 1 else 'reached'} ({speed.source}{shared})"
    return f"{duration(seconds)} of training steps, with {how}"


def _speed(prepared: Prepared, step_flops: int, is_here: bool) -> Pace | None:
    """As assumed or measured; None where a device that is not here would have to be measured."""
    config, machine, assume = prepared.config, prepared.machine, prepared.config.assume
    if assume.peak_flops is None and not is_here:
        return None
    precision = config.trainer.precision
    peak = assume.peak_flops or peak_flops(precision, machine.accelerator)
    origin = "assume.peak_flops" if assume.peak_flops else "a product of matrices here"
    if assume.mfu is not None:
        return Pace(peak, assume.mfu, f"assume.mfu of {origin}")
    batch_flops = step_flops / config.trainer.accumulate
    if assume.peak_flops or batch_flops / (peak * USUAL_MFU) > LONGEST_STEP:
        return Pace(peak, USUAL_MFU, f"MFU assumed, of {origin}")
    batch = try_steps(
        config, machine.accelerator, prepared.recipe, prepared.tokenizer.n_vocab, prepared.splits, PROBE_SECONDS
    )
    return Pace(peak, batch_flops / batch.step / peak, f"measured here, of {origin}")


def _fits(needed: int, is_here: bool) -> str:
    there = memory_bytes("cuda" if torch.cuda.is_available() else "cpu") if is_here else None
    if there is None:
        return ""
    return f"; this one has {data_size(there)}" + ("" if needed <= there else ", which is too little")
