"""What a worker does with one config: tells what the run would be and cost, measures its speed, or trains it."""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch

from attnlab.sweep.answers import Answer, answer_of
from attnlab.training.prepare import Common, built_from, prepare
from attnlab.training.resources import count_costs, disk_bytes, passes, seconds_of, try_steps
from attnlab.training.run import quiet, run
from attnlab.training.sameness import computes_the_same, in_words

Report = Callable[..., None]
SECONDS_BETWEEN_REPORTS = 0.25
MOMENTS = 2  # that an optimizer keeps of each parameter
of_a_plan = Common(begins=False)  # one for all that a worker is asked for a plan, which is written nowhere


def plan(contents: Sequence[dict[str, Any]], report: Report) -> list[Answer]:
    """Which runs configs make, and what those cost; refuses what cannot work. Nothing is trained."""
    quiet()
    common = Common() if all(content.get("begins", True) for content in contents) else of_a_plan
    return [answer_of(lambda content=content: _plan(content, common)) for content in contents]  # type: ignore[misc]


def _plan(content: dict[str, Any], common: Common) -> dict[str, Any]:
    prepared = prepare(content["config"], content["variant"], common=common)
    config, splits, n_vocab = prepared.config, prepared.splits, prepared.tokenizer.n_vocab
    made_of = [built_from(config), prepared.machine.attention_dtype, n_vocab]
    counts = common.once("costs", made_of, lambda: count_costs(common.model(config, n_vocab), common.counted))
    sequences = config.batch_size * config.trainer.accumulate * config.trainer.max_steps
    return {
        "fingerprint": prepared.identity.fingerprint,
        "code": prepared.code,
        "solved_at": splits.solved_at,
        "accelerator": prepared.machine.accelerator,
        "n_gpus": torch.cuda.device_count() if prepared.machine.accelerator == "cuda" else 0,
        **counts,
        "train_flops": passes(config) * sequences * counts["forward_flops"],
        "disk_bytes": disk_bytes(config, 4 * counts["parameters"], 4 * MOMENTS * counts["parameters"]),
    }


def same(contents: Sequence[dict[str, Any]], report: Report) -> list[Answer]:
    """Of each config, that its attention computes what the baseline's does, in words; nothing if it does not."""
    quiet()
    return [answer_of(lambda content=content: _same(content)) for content in contents]  # type: ignore[misc]


def _same(content: dict[str, Any]) -> str:
    alike = computes_the_same(content["config"], content["base"])
    return in_words(content["config"], content["baseline"]) if alike else ""


def probe(content: dict[str, Any], report: Report) -> dict[str, Any]:
    """How long a run would take, from a moment of training that leaves nothing behind."""
    quiet()
    prepared = prepare(content["config"], content["variant"], common=of_a_plan)
    config, splits = prepared.config, prepared.splits
    n_vocab, accelerator = prepared.tokenizer.n_vocab, prepared.machine.accelerator
    batch = try_steps(config, accelerator, prepared.recipe, n_vocab, splits, content["seconds"])
    return {"seconds": seconds_of(config, splits, batch)}


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
        if now - self.last_report >= SECONDS_BETWEEN_REPORTS:
            self.last_report = now
            metrics = pl_module.latest
            assert isinstance(metrics, dict)
            self.report(trainer.global_step, trainer.max_steps, metrics.get("val/loss"))


def task_of(kind: str) -> Callable[[Any, Report], Any]:
    """The function that does a task of a kind: of one config, or (`plan`, `same`) of several that come together."""
    tasks: dict[str, Callable[[Any, Report], Any]] = {"plan": plan, "same": same, "probe": probe, "train": train}
    return tasks[kind]
