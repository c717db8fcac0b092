"""What happens beside the training itself: timing, samples of text, checkpoints at step boundaries."""

import gc
import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from attnlab.data.dataset import Dataset
from attnlab.data.tokenizers import Tokenizer
from attnlab.errors import UsageError
from attnlab.generation import generate
from attnlab.model import GPT
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.training.process_group import ProcessGroup, parts_of
from attnlab.training.recorders.recorder import as_code, recorder_of
from attnlab.training.stop import StopRequest


class TimedCallback(L.Callback):
    """A callback that knows how long it kept training waiting: `seconds`, over all parts of a resumed run."""

    seconds: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started


class Speed(L.Callback):
    """Logs `perf/tokens_per_second` and adds up the time of training proper, without validation, maps, samples, saving.

    `seconds` and `tokens` are totals over all parts of a resumed run.
    """

    def __init__(self, tokens_per_batch: int) -> None:
        self.tokens_per_batch = tokens_per_batch
        self.seconds, self.tokens = 0.0, 0
        self._since, self._before, self._validating, self._batches = 0.0, 0.0, 0.0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked at again and again
        self._restart(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gc.unfreeze()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        gc.unfreeze()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation_started = time.perf_counter() - self._waiting(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Less what other callbacks did meanwhile, which they count themselves.
        self._validating += time.perf_counter() - self._waiting(trainer) - self._validation_started

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches += 1
        if not pl_module.is_logged_step:
            return
        waited = self._waiting(trainer) - self._before
        seconds, tokens = time.perf_counter() - self._since - waited, self._batches * self.tokens_per_batch
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + tokens
        rate = tokens / max(seconds, 1e-9)
        recorder_of(trainer).scalars({"perf/tokens_per_second": rate}, trainer.global_step)
        self._restart(trainer)

    def _restart(self, trainer: L.Trainer) -> None:
        self._since, self._before, self._batches = time.perf_counter(), self._waiting(trainer), 0

    def _waiting(self, trainer: L.Trainer) -> float:
        """The seconds that training has waited for others so far."""
        return self._validating + sum(c.seconds for c in _callbacks(trainer) if isinstance(c, TimedCallback))

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.tokens = state_dict["seconds"], state_dict["tokens"]


class Epochs(L.Callback):
    """Logs how often a text was gone through, where windows come in the order of an epoch: data/epoch, and the share of
    it that was seen, data/seen."""

    def __init__(self, splits: Dataset, rows_per_batch: int, context: int) -> None:
        self.splits, self.rows_per_batch, self.context = splits, rows_per_batch, context

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.is_logged_step:
            rows = trainer.global_step * trainer.accumulate_grad_batches * self.rows_per_batch
            epochs = self.splits.epochs(rows, self.context)
            if epochs is not None:
                recorder_of(trainer).scalars({"data/epoch": epochs, "data/seen": min(1.0, epochs)}, trainer.global_step)


class Samples(TimedCallback):
    """Writes a text at evenly spaced steps, from the first to the last (a single one at the last).

    Sampling has a random stream of its own, the same at every step, so that texts can be compared and training is
    not disturbed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: list[int],
        *,
        n_steps: int,
        tokens: int,
        temperature: float,
        top_k: int | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.tokenizer, self.prompt, self.n_steps = tokenizer, prompt, n_steps
        self.settings: dict[str, Any] = {"tokens": tokens, "temperature": temperature, "top_k": top_k, "seed": seed}
        self.steps: set[int] = set()
        self.last_step = -1

    def text(self, model: GPT) -> tuple[str, str]:
        """The prompt, and what the model writes after it."""
        ids = generate(model, torch.tensor(self.prompt), **self.settings)
        whole = self.tokenizer.decode([*self.prompt, *ids])
        start = self.tokenizer.decode(self.prompt)
        return start, whole[len(start) :]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        last = trainer.max_steps
        gaps = self.n_steps - 1
        self.steps = {round(last * i / gaps) if gaps else last for i in range(self.n_steps)}
        self._write_if_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._write_if_due(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last text, where a callback has ended the run before its time."""
        if self.steps:
            self._write_if_due(trainer, pl_module, last=True)

    def _write_if_due(self, trainer: L.Trainer, pl_module: L.LightningModule, last: bool = False) -> None:
        step = trainer.global_step
        if not (last or step in self.steps) or step <= self.last_step:
            return
        self.last_step = step
        with self.timed():
            model = whole(pl_module)
            if not trainer.is_global_zero:
                return
            prompt, more = self.text(model)
            recorder_of(trainer).text("sample", f"**after {step} steps**\n\n{as_code(prompt + '|' + more)}", step)

    def state_dict(self) -> dict[str, Any]:
        return {"last_step": self.last_step, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_step, self.seconds = state_dict["last_step"], state_dict["seconds"]


class Checkpoints(TimedCallback):
    """Saves every `every` steps, at the end, and when somebody asks the run to stop: always between two steps.

    A step ends when everything that belongs to it is done: the update, its validation, maps, samples and rows. So a
    checkpoint is taken when the next batch is about to start. It does not hold the counters of Lightning's loops,
    which at that moment are between two states; they all follow from the number of steps.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        *,
        every: int,
        stop: StopRequest,
        fingerprint: dict[str, Any],
        group: ProcessGroup | None = None,
        part: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.every, self.stop, self.fingerprint = folder, every, stop, fingerprint
        self.group, self.part = group or ProcessGroup(), dict(part or {})
        self.parts: list[dict[str, Any]] = []
        self.saved = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        check_states(trainer)
        self.parts = parts_of(self.parts, trainer.global_step, self.part)
        self.stop.install()  # once more: Lightning has put its own handlers in place
        self.saved = trainer.global_step  # just loaded, or nothing to lose yet

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not pl_module.step_ended:
            return
        step, stop = trainer.global_step, self._stopping(trainer)
        if step != self.saved and (stop or step % self.every == 0):
            self.save(trainer)
            recorder_of(trainer).commit()
        if stop:
            self.stop.obey(f"stopped after step {step} of {trainer.max_steps}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step != self.saved:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Flush what was logged, then write the checkpoint, so that no row is missing from what it continues."""
        with self.timed():
            recorder_of(trainer).save()
            self.saved = trainer.global_step
            trainer.save_checkpoint(self.folder.file(trainer.global_step), weights_only=False)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # Before and after the steps nothing is lost that a checkpoint does not hold; between them a step is finished.
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.stop.obey(f"stopped at step {trainer.global_step} of {trainer.max_steps}")

    def _stopping(self, trainer: L.Trainer) -> bool:
        # All processes must leave at the same step, or those that stay wait for ever.
        self.stop.signal = self.group.largest(self.stop.signal or 0) or None
        return self.stop.signal is not None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        del checkpoint["loops"]
        checkpoint["fingerprint"] = self.fingerprint
        checkpoint["processes"] = self.parts
        checkpoint["draws"] = pl_module.draws  # in training: with other processes it would draw others
        checkpoint["stopped"] = trainer.should_stop  # by a callback: the run has come to its end
        checkpoint["beside"] = recorder_of(trainer).digests()  # goes into the manifest

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        trainer.should_stop = checkpoint.get("stopped", False)
        self.parts = checkpoint.get("processes", [])
        step, loop = checkpoint["global_step"], trainer.fit_loop.epoch_loop
        batches = step * trainer.accumulate_grad_batches
        loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
        loop._batches_that_stepped = step
        for state in ("ready", "started", "processed", "completed"):
            setattr(loop.batch_progress.total, state, batches)


def check_states(trainer: L.Trainer) -> None:
    """Refuse a callback whose state a checkpoint could not give back: it would be lost when the run is killed."""
    for callback in _callbacks(trainer):
        file = io.BytesIO()
        try:
            torch.save(callback.state_dict(), file)
            torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        except Exception as error:  # whatever pickle makes of it
            raise UsageError(
                f"callbacks: the state of {type(callback).__name__} must be numbers, text and tensors, in lists and "
                "dictionaries, or a run that is killed could not go on with it"
            ) from error


def parts(trainer: L.Trainer) -> list[dict[str, Any]]:
    """With which processes the run has gone so far, from which step on."""
    return next(callback.parts for callback in _callbacks(trainer) if isinstance(callback, Checkpoints))


def whole(pl_module: L.LightningModule) -> GPT:
    """The network with its weights as they are now, to look at in the first process. Where its parameters lie in parts
    on several processes, all must take part, and the others get one that must not be used."""
    model = pl_module.put_together()  # type: ignore[operator]
    assert isinstance(model, GPT)
    return model


def network(pl_module: L.LightningModule) -> GPT:
    """The network that trains."""
    model = pl_module.model
    assert isinstance(model, GPT)
    return model


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]
