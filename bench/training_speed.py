"""Trainer.fit with everything it does against a bare loop: python bench/training_speed.py [trainer.threads=1 ...]

Both sides train the same model on the same batches in the same precision. The bare loop computes the loss, clips and
updates; our side is `Trainer.fit` as a run uses it, with progress bar, TensorBoard and metrics.csv, learning-rate
schedule, reseeding and the check for numbers that are not finite. They take turns every ten
steps, so that a machine that slows down slows down for both. Then comes the share of a whole run that maps take.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.config.run_config import RunConfig
from attnlab.training import run as training
from attnlab.training.module import LanguageModel
from attnlab.training.recorders.metrics import MetricsRecorder
from attnlab.training.recorders.recorder import Recorders
from attnlab.training.recorders.tensorboard import TensorBoardRecorder
from attnlab.training.stop import StopRequest

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


def config_for(folder: Path, steps: int, *more: str) -> RunConfig:
    return compose_config(
        [*SIZE, f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", f"trainer.max_steps={steps}", *more]
    )


class BareLoop:
    """A training loop written out by hand: batch, loss, backward pass, clipping, update."""

    def __init__(self, prepared: training.Prepared) -> None:
        self.config, self.splits = prepared.config, prepared.splits
        self.model = build_model(self.config, prepared.tokenizer.n_vocab)
        self.optimizer = prepared.recipe.optimizer(self.model)
        self.bf16 = prepared.machine.precision == "bf16"
        self.step = 0

    def run(self, steps: int) -> float:
        """Make this many steps; returns the seconds they took."""
        started = time.perf_counter()
        for _ in range(steps):
            ids, targets, *_ = self.splits.train_batch(
                seed=0,
                step=self.step,
                batch_size=self.config.batch_size,
                context=self.config.model.context,
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                loss = F.cross_entropy(self.model(ids).flatten(0, 1), targets.flatten())
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
        return time.perf_counter() - started


class TakingTurns(L.Callback):
    """Lets the bare loop make as many steps after every block of `BLOCK` steps of the fit, and times both."""

    def __init__(self, bare: BareLoop) -> None:
        self.bare, self.since = bare, 0.0
        self.blocks: dict[str, list[float]] = {"bare loop": [], "Trainer.fit": []}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % BLOCK:
            return
        if trainer.global_step:
            self.blocks["Trainer.fit"].append((time.perf_counter() - self.since) / BLOCK)
            self.blocks["bare loop"].append(self.bare.run(BLOCK) / BLOCK)
        self.since = time.perf_counter()


BLOCK = 10  # steps: short, so that both sides meet the same moods of the machine; one row is logged in each
WARM_UP = 3  # blocks: the first ones allocate and choose kernels


def fit(prepared: training.Prepared, turns: TakingTurns) -> None:
    """Trainer.fit as a run calls it, but without validation, maps and samples, which the bare loop lacks."""
    config = prepared.config
    module = LanguageModel(
        build_model(config, prepared.tokenizer.n_vocab),
        prepared.recipe,
        noise_seed=0,
        log_every=config.trainer.log_every,
        val_scored_bytes=prepared.splits.scored_bytes,
    )
    sizes = {"batch_size": config.batch_size, "context": config.model.context}
    data = training.TextDataModule(prepared.splits, seed=0, **sizes)
    prepared.folder.path.mkdir(parents=True, exist_ok=True)
    table = MetricsRecorder(prepared.folder)
    table.resume_at(None)
    recorders = Recorders([table, TensorBoardRecorder(prepared.folder, resume_at=None)])
    speed = training.Speed(config.batch_size * config.model.context)
    trainer = training.make_trainer(
        prepared, StopRequest(), recorders, [speed, training.Progress(speed, bar=True), turns], training.ProcessGroup()
    )
    trainer.fit(module, datamodule=data)
    recorders.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=60, help="timed blocks of ten steps of each side")
    parser.add_argument("words", nargs="*", help="settings for both sides, such as trainer.threads=1")
    options = parser.parse_args()
    training.quiet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        never = [f"trainer.val_every={QUIET_STEPS}", f"trainer.checkpoint_every={QUIET_STEPS}"]
        steps = BLOCK * (options.blocks + WARM_UP) + 1
        prepared = training.prepare(config_for(folder, steps, *never, *options.words), "multi_head")
        turns = TakingTurns(BareLoop(prepared))
        with contextlib.redirect_stderr(Terminal()):
            fit(prepared, turns)
        blocks = {side: taken[WARM_UP:] for side, taken in turns.blocks.items()}
        base, tokens = statistics.median(blocks["bare loop"]), 12 * 64
        machine = prepared.machine
        print(f"4 layers, 4 heads, 128 wide, 12 x 64 tokens, {machine.precision}, {machine.threads} threads")
        for side, taken in blocks.items():
            middle = statistics.median(taken)
            print(f"  {side:12s} {middle * 1e3:7.2f} ms   {base / middle:5.3f} x   {tokens / middle:9,.0f} tokens/s")
        ratios = [a / b for a, b in zip(blocks["bare loop"], blocks["Trainer.fit"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"  ratio of neighbouring blocks: median {middle:.3f}, quartiles {low:.3f} and {high:.3f}")

        places = [f"paths.runs={folder}/runs", f"paths.cache={folder}/cache"]
        with contextlib.redirect_stdout(io.StringIO()):
            summary = training.run(compose_config([*places, *options.words]), variant="multi_head")
        share = summary["map_seconds"] / summary["seconds"]
        print(f"  maps in the main job: {summary['map_seconds']:.2f} s of {summary['seconds']:.1f} s, {share:.2%}")


if __name__ == "__main__":
    main()
