"""What a run was and what it came to: its stored config, its line in the hparams tab, its summary.json."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from attnlab.config.keys import without_secrets
from attnlab.config.run_config import class_name
from attnlab.data.task import Task
from attnlab.model import GPT
from attnlab.store.status import Status
from attnlab.training.callback_group import weights_evaluated
from attnlab.training.callbacks import Speed
from attnlab.training.description import environment
from attnlab.training.extrapolation import Reach, as_summary
from attnlab.training.hardware import device_name
from attnlab.training.map_callback import LogMaps
from attnlab.training.prepare import Prepared
from attnlab.training.scoring import ACCURACY, ERROR, by_slice
from attnlab.training.usage import Meter, peak_bytes


def config_to_store(prepared: Prepared) -> dict[str, Any]:
    """What config.yaml holds: the resolved config and what the run was called."""
    return {"variant": prepared.identity.variant, **without_secrets(prepared.config.as_dict())}


def hyperparameters(prepared: Prepared, model: GPT) -> dict[str, Any]:
    """What the hparams tab compares runs by. It shows five, first those in which runs differ, sorted by name: so the
    variant is called what is typed for it, and what is seldom asked comes last. Hashes stand in the names of runs."""
    config, machine = prepared.config, prepared.machine
    others = {
        "batch_size": config.batch_size,
        "context": config.model.context,
        "d_model": config.model.d_model,
        "dropout": config.model.dropout,
        "max_steps": config.trainer.max_steps,
        "n_heads": config.model.n_heads,
        "n_layers": config.model.n_layers,
        "optimizer": class_name(config.optimizer),
        "position": class_name(config.position.inside) + " + " + class_name(config.position.embed),
        "precision": machine.precision,
        "tokenizer": f"{prepared.tokenizer.name} {prepared.tokenizer.n_vocab}",
    }
    return {
        "attention": prepared.identity.variant,
        "data": f"{_data_name(config.data)} {prepared.splits.sha256[:8]}",
        "lr": prepared.recipe.lr,
        "parameters": model.n_parameters,
        "seed": config.seed,
        **{f"setting/{name}": value for name, value in others.items()},
    }


def _data_name(settings: dict[str, Any]) -> str:
    path = settings.get("path")
    return class_name(settings) if path is None else Path(str(path)).stem


def of_a_task(prepared: Prepared) -> dict[str, Any]:
    """The floor and the ceiling of a task: the best guess without its mechanism, and an exact solver. How many
    validation rows there were, and which share of them training can show, too."""
    task, context, seed = prepared.splits, prepared.config.model.context, prepared.config.streams.eval
    if not isinstance(task, Task):
        return {"bounds": {}}
    bounds = {"floor": task.floor(context)._asdict(), "ceiling": task.best(context, seed)._asdict()}
    return {
        "bounds": bounds,
        "val_rows": task.val_rows,
        "val_overlap": task.overlap(context, seed, prepared.config.streams.data),
    }


def of_a_text(prepared: Prepared, step: int) -> dict[str, Any]:
    """How often a text was gone through, where that is counted, and what of it was left out, if anything was."""
    config, splits = prepared.config, prepared.splits
    epochs = splits.epochs(step * config.trainer.accumulate * config.batch_size, config.model.context)
    progress = {} if epochs is None else {"data_epochs": epochs, "data_seen": min(1.0, epochs)}
    return {**progress, **({"data_skipped": dict(splits.skipped)} if splits.skipped else {})}


def summarise(
    prepared: Prepared,
    model: GPT,
    status: Status,
    started: datetime,
    seconds: float,
    speed: Speed,
    maps: LogMaps | None,
    meter: Meter,
    reaches: Sequence[Reach] = (),
) -> dict[str, Any]:
    """What a run came to; `seconds` are those of its last part, the others add up over all parts."""
    config, splits = prepared.config, prepared.splits
    rows = prepared.folder.read_metrics()
    losses = [(row.value, row.step) for row in rows if row.metric == "val/loss"]
    last = {row.metric: row.value for row in rows}  # the latest row of each metric
    best = min(losses, default=(None, None))
    cost = model.cost(config.model.context)
    return {
        "status": status,
        "variant": prepared.identity.variant,
        "hash": prepared.identity.hash8,
        "code": prepared.identity.code,
        "seed": prepared.identity.seed,
        "step": max((row.step for row in rows), default=0),
        "max_steps": config.trainer.max_steps,  # more than step where a callback ended the run
        "weights": weights_evaluated(prepared.callbacks),
        "val_loss": last.get("val/loss"),
        "val_bits_per_byte": last.get("val/bits_per_byte"),
        "best_val_loss": best[0],
        "best_step": best[1],
        "train_loss": last.get("train/loss"),
        **prepared.fairness,
        "beside": {**prepared.fairness.get("beside", {}), **meter.beside()},
        "baseline_loss": splits.baseline_loss(config.model.context),
        "val_accuracy": last.get(ACCURACY),
        "val_accuracy_error": last.get(ERROR),
        "slices": by_slice(last),
        **of_a_task(prepared),
        **of_a_text(prepared, max((row.step for row in rows), default=0)),
        "solved_at": splits.solved_at,
        "extrapolation": as_summary(reaches),
        "parameters": model.n_parameters,
        "attention_cost": {"seq_len": config.model.context, **cost._asdict()},
        "tokens": speed.tokens,
        "tokens_per_second": speed.tokens / speed.seconds if speed.seconds else None,
        "train_seconds": speed.seconds,
        "map_seconds": 0.0 if maps is None else maps.seconds,
        "emergence_steps": {} if maps is None else maps.emergence_steps,
        "seconds": seconds,
        "peak_memory_bytes": peak_bytes(prepared.machine.accelerator),  # of the whole process
        "run_memory_bytes": meter.memory_bytes(),
        "started": started.isoformat(timespec="seconds"),
        "data_sha256": splits.sha256,
        "val_sha256": splits.val_sha256,
        "tokenizer_sha256": prepared.tokenizer.sha256,
        "n_vocab": splits.n_vocab,
        **({} if prepared.init is None else {"init_sha256": prepared.init.sha256}),
        "device": device_name(prepared.machine.accelerator),
        "precision": prepared.machine.precision,
        "threads": prepared.machine.threads,
        "devices": prepared.processes.world_size,
        **environment(),
    }
