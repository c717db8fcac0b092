"""What a worker does with one config: tells what the run would be and cost, measures its speed, or trains it."""

import gc
import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F

from attnlab.attention.backends import use_backends
from attnlab.attention.cost import count_flops
from attnlab.build import build_model
from attnlab.config.run_config import RunConfig
from attnlab.data.task import Task
from attnlab.training.prepare import Prepared, prepare
from attnlab.training.run import quiet, run
from attnlab.training.sameness import computes_the_same, in_words

Report = Callable[..., None]
SECONDS_BETWEEN_WORDS = 0.25
MOMENTS = 2  # that an optimizer keeps of each parameter, and a checkpoint with it
KEPT_CHECKPOINTS = 2
COSTLY = ("model", "attention", "position", "streams", "allow_targets")  # what a model is built from


def plan(content: dict[str, Any], report: Report) -> dict[str, Any]:
    """Which run a config makes, and what that costs; refuses what cannot work. Nothing is trained."""
    quiet()
    prepared = prepare(content["config"], content["variant"])
    config, splits = prepared.config, prepared.splits
    built = {key: value for key, value in config.as_dict().items() if key in COSTLY}
    dtype = {"trainer": {"attention_dtype": prepared.machine.attention_dtype}}
    costs = _costs(json.dumps(built | dtype), prepared.tokenizer.n_vocab)
    sequences = config.batch_size * config.trainer.accumulate * config.trainer.max_steps
    return {
        "fingerprint": prepared.identity.fingerprint,
        "code": prepared.code,
        "solved_at": splits.solved_at if isinstance(splits, Task) else None,
        "accelerator": prepared.machine.accelerator,
        "n_gpus": torch.cuda.device_count() if prepared.machine.accelerator == "cuda" else 0,
        **costs,
        "train_flops": 3 * sequences * costs["forward_flops"],
        "disk_bytes": KEPT_CHECKPOINTS * (1 + MOMENTS) * 4 * costs["parameters"] + _map_bytes(prepared),
    }


@cache
def _costs(config: str, n_vocab: int) -> dict[str, int]:
    """What the model of a config costs, counted once for settings that differ in nothing that counts."""
    settings = RunConfig.of(json.loads(config))
    with torch.device("meta"):
        model = build_model(settings, n_vocab).eval()
        ids = torch.zeros(1, model.context, dtype=torch.long)
    return {
        "parameters": model.n_parameters,
        "forward_flops": count_flops(lambda: model(ids)),
        "state_bytes": model.cost(model.context).state_bytes,
    }


def same(content: dict[str, Any], report: Report) -> str:
    """That the attention of a config computes what the baseline's does, in words; nothing if it does not."""
    quiet()
    alike = computes_the_same(content["config"], content["base"])
    return in_words(content["config"], content["baseline"]) if alike else ""


def _map_bytes(prepared: Prepared) -> int:
    """About what the maps of a run take: half-precision weights of every head, before compression."""
    model = prepared.config.model
    return prepared.config.maps.steps * model.n_layers * model.n_heads * min(model.context, 64) ** 2 * 2


def probe(content: dict[str, Any], report: Report) -> dict[str, Any]:
    """How long a run would take, from a second or two of training that leaves nothing behind."""
    quiet()
    prepared = prepare(content["config"], content["variant"])
    config, splits = prepared.config, prepared.splits
    model = build_model(config, prepared.tokenizer.n_vocab).to(prepared.machine.accelerator)
    use_backends(model, config.trainer.attention_backend, prepared.machine.precision)
    optimizer = prepared.recipe.optimizer(model)
    took: list[float] = []
    forward, end = 0.0, time.perf_counter() + content["seconds"]
    while len(took) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        batch = splits.train_batch(
            seed=config.streams.data, step=len(took), batch_size=config.batch_size, context=config.model.context
        ).to(prepared.machine.accelerator)
        with torch.autocast(prepared.machine.accelerator, torch.bfloat16, enabled=prepared.machine.precision == "bf16"):
            loss = F.cross_entropy(model(batch.ids, batch.documents).flatten(0, 1), batch.targets.flatten())
        loss.item()
        forward = time.perf_counter() - started
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        took.append(time.perf_counter() - started)
    trainer = config.trainer
    step = sorted(took)[len(took) // 2] * trainer.accumulate
    windows = splits.n_val_rows(config.model.context)
    validations = 1 + -(-trainer.max_steps // trainer.val_every)
    validation = forward * windows / config.batch_size
    return {"seconds": trainer.max_steps * step + validations * validation}


def train(content: dict[str, Any], report: Report) -> dict[str, Any]:
    """Train the run of a config, or go on with it; returns its summary."""
    print(f"--- {content['title']}")
    try:
        reporter = Reporter(report)
        return run(
            content["config"],
            variant=content["variant"],
            callbacks=[reporter],
            planned=content["modules"],
            beside=content["beside"],
        )
    finally:
        gc.collect()  # the next job should find the memory that this one had


class Reporter(L.Callback):
    """Tells how far a run is, a few times a second: the step, the last step, and the latest validation loss."""

    watches = True

    def __init__(self, report: Report) -> None:
        self.report, self.last_report = report, 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self.last_report >= SECONDS_BETWEEN_WORDS:
            self.last_report = now
            metrics = pl_module.latest
            assert isinstance(metrics, dict)
            self.report(trainer.global_step, trainer.max_steps, metrics.get("val/loss"))


TASKS: dict[str, Callable[[dict[str, Any], Report], Any]] = {"plan": plan, "same": same, "probe": probe, "train": train}
