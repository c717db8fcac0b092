"""A logger and callbacks as users write them; the logger keeps what it gets in a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor


class FileLogger(Logger):
    """Writes a line for each call. At the step `fails_at` it raises, at `dies_at` it takes the process down."""

    dies_at = -1

    def __init__(self, path: str, *, id: str, fails_at: int = -1) -> None:
        super().__init__()
        self.path, self.id, self.fails_at = Path(path), id, fails_at

    @property
    def name(self) -> str:
        return "file"

    @property
    def version(self) -> str:
        return self.id

    def _write(self, **content: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"id": self.id, **content}) + "\n")

    def log_hyperparams(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        self._write(config=params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step == self.fails_at:
            raise ConnectionError("nobody listens")
        self._write(step=step, metrics=metrics)
        if step == type(self).dies_at:
            raise Killed

    def finalize(self, status: str) -> None:
        self._write(status=status)


class Killed(BaseException):
    """Stands for SIGKILL: nothing between here and the test may catch it."""


class Halve(L.Callback):
    """Changes the result: from a step on, every gradient is half of what it was."""

    def __init__(self, first: int = 0) -> None:
        self.first, self.halved = first, 0

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step >= self.first:
            self.halved += 1
            for p in pl_module.parameters():
                if p.grad is not None:
                    p.grad.mul_(0.5 + 0.01 * self.halved)

    def state_dict(self) -> dict[str, Any]:
        return {"halved": self.halved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.halved = state_dict["halved"]


class Watch(L.Callback):
    """Only looks."""

    watches = True

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any) -> None:
        self.steps.append(trainer.global_step)
        if trainer.logger is not None:
            trainer.logger.log_metrics({"watch/step": float(trainer.global_step)}, trainer.global_step)


class Hoards(L.Callback):
    """Its state is more than plain data."""

    def state_dict(self) -> dict[str, Any]:
        return {"kind": Path("x")}


class Stops(L.Callback):
    """Ends the run in a way that nobody foresees."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Tensor, *rest: Any) -> None:
        trainer.should_stop = trainer.global_step >= 5
