"""What a run says on the terminal: a header, a progress bar with a line per validation, and where to look."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from tqdm import tqdm

from attnlab.inspection.records import tensorboard_command
from attnlab.machine.environment import harmless
from attnlab.training.callbacks import Speed
from attnlab.training.notes import log

RATES = (("val/bits_per_byte", "val_bits_per_byte"), ("val/accuracy", "val_accuracy"))


def print_summary(summary: Mapping[str, Any], sample: tuple[str, str] | None, runs: str) -> None:
    """The end of a run: a sample (prompt, continuation), the losses, and the command that shows everything."""
    if sample is not None:
        log(harmless(f"\nsample: {sample[0]}|{sample[1]}\n"))
    rates = [f"{name} {summary[key]:.4f}" for name, key in RATES if summary[key] is not None]
    if summary["val_accuracy_error"] is not None:
        rates[-1] += f" +- {summary['val_accuracy_error']:.4f}"
    log(
        f"val/loss {summary['val_loss']:.4f} (best {summary['best_val_loss']:.4f} at step {summary['best_step']}, "
        f"baseline {summary['baseline_loss']:.4f})   {'   '.join(rates)}   "
        f"{summary['tokens_per_second'] or 0:,.0f} tokens/s   {summary['seconds']:.0f} s"
    )
    if "data_epochs" in summary:
        log(f"{summary['data_epochs']:.4g} epochs of the training part, {summary['data_seen']:.2%} of it seen")
    if skipped := summary.get("data_skipped"):
        count = f"{skipped['files']:,} files and {skipped['documents']:,} documents"
        log(f"skipped: {count}, such as {skipped['examples'][0]}")
    if summary["slices"]:
        log(
            "accuracy by slice: "
            + "   ".join(f"{name} {part['accuracy']:.2f}" for name, part in summary["slices"].items())
        )
    print_tensorboard_command(runs)


def print_tensorboard_command(runs: str) -> None:
    """The command that shows all runs in this folder."""
    log("look at it with:")
    log(f"  {tensorboard_command(Path(runs))}")


class Progress(L.Callback):
    """A bar over the steps of the run, and a line with both losses after each validation.

    Where the output is no terminal, or with `bar` false, only the lines.
    """

    def __init__(self, speed: Speed, *, bar: bool) -> None:
        self.speed, self.shows_bar = speed, bar and sys.stderr.isatty()
        self.bar: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.shows_bar and trainer.is_global_zero:
            self.bar = tqdm(
                total=trainer.max_steps, initial=trainer.global_step, unit="step", dynamic_ncols=True, leave=False
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)  # tqdm itself decides how often to draw

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics = pl_module.latest
        assert isinstance(metrics, dict)
        step, width = trainer.global_step, len(str(trainer.max_steps))
        parts = [f"step {step:{width}d}/{trainer.max_steps}", f"val/loss {metrics['val/loss']:.4f}"]
        if "train/loss" in metrics:
            parts.append(f"train/loss {metrics['train/loss']:.4f}")
        if self.speed.seconds:
            parts.append(f"{self.speed.tokens / self.speed.seconds:,.0f} tokens/s")
        log("  ".join(parts))
        if self.bar is not None:
            self.bar.set_postfix_str(f"val/loss {metrics['val/loss']:.4f}", refresh=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
