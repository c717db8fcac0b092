"""Trainer.fit with everything it does against a bare loop: python bench/training_speed.py [trainer.threads=1 ...]

Both sides train the same model on the same batches in the same precision. The bare loop computes the loss, clips and
updates; our side is `Trainer.fit` as a run uses it, with progress bar, TensorBoard and metrics.csv, learning-rate
schedule, reseeding and the check for numbers that are not finite. They take turns, so that a machine that slows down
slows down for both; the figure is the ratio of the medians. Then comes the share of a whole run that maps take.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from attnlab.build import build_model
from attnlab.config import compose_config
from attnlab.data.batches import train_batch
from attnlab.training import run as training
from attnlab.training.metrics import Board, MetricsCSV
from attnlab.training.module import LanguageModel
from attnlab.training.stop import StopWish

SIZE = [
    "model.n_layers=4",
    "model.n_heads=4",
    "model.d_model=128",
    "model.context=64",
    "batch_size=12",
    "model.dropout=0.0",
]
QUIET_STEPS = 1_000_000  # further away than any step


class Terminal(io.StringIO):
    """A stream that looks like a terminal, so that the progress bar is really drawn."""

    def isatty(self) -> bool:
        return True


def config_for(folder: Path, steps: int, *more: str) -> dict[str, Any]:
    return compose_config(
        [*SIZE, f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", f"trainer.max_steps={steps}", *more]
    )


def bare_loop(prepared: training.Prepared, steps: int) -> float:
    """Seconds per step of a loop written out by hand."""
    config, splits = prepared.config, prepared.splits
    model = build_model(config, prepared.tokenizer.n_vocab)
    optimizer = prepared.recipe.optimizer(model)
    bf16 = prepared.machine.precision == "bf16"
    started = 0.0
    for step in range(steps + WARM_UP):
        if step == WARM_UP:
            started = time.perf_counter()
        ids, targets = train_batch(
            splits.train,
            corpus_sha256=splits.corpus_sha256,
            seed=0,
            step=step,
            batch_size=config["batch_size"],
            context=config["model"]["context"],
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return (time.perf_counter() - started) / steps


WARM_UP = 10  # steps: the first ones allocate and choose kernels


def fit(prepared: training.Prepared, steps: int) -> float:
    """Seconds per step of Trainer.fit, without validation, maps and samples, which the bare loop lacks."""
    config = prepared.config
    model = build_model(config, prepared.tokenizer.n_vocab)
    clock: list[float] = []

    class Watched(LanguageModel):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.trainer.global_step == WARM_UP:
                clock.append(time.perf_counter())
            super().on_train_batch_start(batch, batch_idx)

    module = Watched(
        model,
        prepared.recipe,
        noise_seed=0,
        log_every=config["trainer"]["log_every"],
        val_scored_bytes=prepared.splits.scored_bytes,
    )
    data = training.TextDataModule(
        prepared.splits, seed=0, batch_size=config["batch_size"], context=config["model"]["context"]
    )
    prepared.folder.mkdir(parents=True, exist_ok=True)
    table, board = MetricsCSV(prepared.folder), Board(prepared.folder, resume_at=None)
    table.resume_at(None)
    speed = training._speed(config)
    progress = training.Progress(speed, bar=True)
    trainer = training._trainer(prepared, StopWish(), [table, board], [speed, progress])
    trainer.fit(module, datamodule=data)
    seconds = time.perf_counter() - clock[0]
    board.close()
    return seconds / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=150, help="timed steps of each side in each round")
    parser.add_argument("words", nargs="*", help="settings for both sides, such as trainer.threads=1")
    options = parser.parse_args()
    training._quiet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        never = [f"trainer.val_every={QUIET_STEPS}", f"trainer.checkpoint_every={QUIET_STEPS}"]
        config = config_for(folder, options.steps + WARM_UP, *never, *options.words)
        prepared = training.prepare(config, "multi_head")
        times: dict[str, list[float]] = {"bare loop": [], "Trainer.fit": []}
        for _ in range(options.rounds):
            times["bare loop"].append(bare_loop(prepared, options.steps))
            with contextlib.redirect_stderr(Terminal()):
                times["Trainer.fit"].append(fit(prepared, options.steps))
        base = statistics.median(times["bare loop"])
        tokens = config["batch_size"] * config["model"]["context"]
        print(
            f"4 layers, 4 heads, 128 wide, 12 x 64 tokens, {prepared.machine.precision}, "
            f"{prepared.machine.threads} threads"
        )
        for side, taken in times.items():
            middle = statistics.median(taken)
            print(f"  {side:12s} {middle * 1e3:7.2f} ms   {base / middle:5.3f} x   {tokens / middle:9,.0f} tokens/s")
        ratios = sorted(a / b for a, b in zip(times["bare loop"], times["Trainer.fit"], strict=True))
        print(f"  ratio of each round: {' '.join(f'{ratio:.3f}' for ratio in ratios)}")

        with contextlib.redirect_stdout(io.StringIO()):
            summary = training.run(
                config_for(folder, 600, "experiment_name=maps", *options.words), variant="multi_head"
            )
        print(json.dumps({key: summary[key] for key in ("map_seconds", "seconds", "train_seconds")}))
        print(f"  maps on the default schedule: {100 * summary['map_seconds'] / summary['seconds']:.2f} % of the run")


if __name__ == "__main__":
    main()
