"""Tiny models, recipes and data, and a Trainer put together as a run does it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.data.batches import TokenSplits
from attnlab.data.datamodule import TextDataModule
from attnlab.machine.environment import Processes
from attnlab.model import GPT
from attnlab.options import Fraction, NonNegative, Positive, option
from attnlab.options.model_config import ModelConfig
from attnlab.training.checkpoint_io import VerifiedCheckpointIO
from attnlab.training.module import LanguageModel
from attnlab.training.optimizer import AdamW, Decay, Recipe
from attnlab.training.process_group import Launched
from attnlab.training.recorders.recorder import Recorder, Recorders

VOCAB, CONTEXT = 17, 8


def adamw(**changes: Any) -> AdamW:
    """A recipe with every setting, some of them changed."""
    settings: dict[str, Any] = {
        "lr": 0.01,
        "weight_decay": 0.1,
        "warmup_fraction": 0.25,
        "decay": "cosine",
        "final_lr_fraction": 0.1,
        "grad_clip": 1.0,
        "betas": (0.9, 0.99),
    }
    return AdamW(**settings | changes)


ADAMW = adamw()


class Descent(Recipe):
    """Plain gradient descent at a constant rate: linear in the gradients, so that rounding stays rounding."""

    lr: Positive = option(default=0.1)
    weight_decay: NonNegative = option(default=0.0)
    warmup_fraction: Fraction = option(default=0.0)
    decay: Decay = option(default="constant")
    final_lr_fraction: Positive = option(default=1.0)
    grad_clip: Positive | None = option(default=None)

    def optimizer(self, model: GPT) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.lr)


def tiny_model(**settings: Any) -> GPT:
    """Two layers of two heads, 12 wide."""
    dropout = settings.pop("dropout", 0.0)
    attention = settings.pop("attention", partial(MultiHeadAttention, n_heads=2, dropout=dropout))
    vocab_size, seed = settings.pop("vocab_size", VOCAB), settings.pop("seed", 0)
    config = ModelConfig(**{"context": CONTEXT, "n_layers": 2, "d_model": 12, "dropout": dropout, **settings})
    return GPT(config, vocab_size=vocab_size, attention=attention, seed=seed)


def tiny_splits(n_val: int = 29, scored_bytes: int = 41) -> TokenSplits:
    """Tokens drawn at random; the validation text fills no whole number of windows."""
    draw = np.random.default_rng(0)
    train, val = (draw.integers(VOCAB, size=n).astype(np.uint16) for n in (200, n_val))
    return TokenSplits(train, val, VOCAB, "0" * 64, scored_bytes)


def tiny_data(batch_size: int = 3, splits: TokenSplits | None = None) -> TextDataModule:
    return TextDataModule(splits or tiny_splits(), seed=0, batch_size=batch_size, context=CONTEXT)


def language_model(
    model: GPT | None = None, recipe: Recipe = ADAMW, kind: type[LanguageModel] = LanguageModel, **settings: Any
) -> LanguageModel:
    settings = {"noise_seed": 0, "log_every": 1, "val_scored_bytes": 41, **settings}
    return kind(model or tiny_model(), recipe, **settings)


def trainer_like_a_run(
    *,
    steps: int,
    accumulate: int = 1,
    val_every: int | None = None,
    callbacks: Sequence[L.Callback] = (),
    recorders: Sequence[Recorder] = (),
    precision: Any = "32-true",
    disk: VerifiedCheckpointIO | None = None,
    folder: Path | None = None,
    processes: Processes = Processes(),
    strategy: Any = "auto",
) -> L.Trainer:
    """Lightning's Trainer on the CPU, with the settings of `attnlab.training.run`."""
    return L.Trainer(
        accelerator="cpu",
        devices=processes.per_node,
        strategy=strategy,
        precision=precision,
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        val_check_interval=val_every * accumulate if val_every else None,
        check_val_every_n_epoch=None if val_every else 1,
        limit_val_batches=None if val_every else 0,
        num_sanity_val_steps=0,
        inference_mode=False,
        logger=Recorders(recorders),
        callbacks=list(callbacks),
        plugins=[disk or VerifiedCheckpointIO(), Launched(processes)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of everything that is trained."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
