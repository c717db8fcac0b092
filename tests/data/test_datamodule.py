"""The batches as Lightning sees them: where training starts, and what validation covers."""

import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attnlab.data import datamodule
from attnlab.data.batches import IGNORED, Batch, TokenSplits, train_batch
from attnlab.data.datamodule import TextDataModule
from attnlab.errors import UsageError

steady = settings(deadline=None, derandomize=True)  # the same examples on every machine, however slow

TRAIN, CONTEXT, BATCH = 200, 5, 12


def splits(val: int = 43) -> TokenSplits:
    """Tokens that say where they stand."""
    return TokenSplits(
        np.arange(TRAIN, dtype=np.uint16),
        np.arange(val, dtype=np.uint16),
        200,
        corpus_sha256="ab",
        scored_bytes=val - 1,
    )


def module(val: int = 43, *, at: dict[str, int] | None = None, **options: int) -> TextDataModule:
    """A data module, with a trainer that stands where `at` says."""
    data = TextDataModule(splits(val), **{"seed": 3, "batch_size": BATCH, "context": CONTEXT, **options})
    if at is not None:
        usual = {"global_step": 0, "accumulate_grad_batches": 1, "global_rank": 0, "world_size": 1}
        data.trainer = SimpleNamespace(**{**usual, **at})  # type: ignore[assignment]
    return data


def expected(step: int) -> Tensor:
    ids = np.arange(TRAIN, dtype=np.uint16)
    return train_batch(ids, corpus_sha256="ab", seed=3, step=step, batch_size=BATCH, context=CONTEXT)[0]


def first(data: TextDataModule, n: int) -> list[Tensor]:
    return [inputs for inputs, *_ in itertools.islice(data.train_dataloader(), n)]


# Training


def test_starts_at_first_batch() -> None:
    """Without a trainer training starts at the first batch."""
    for step, inputs in enumerate(first(module(), 4)):
        assert torch.equal(inputs, expected(step))


@pytest.mark.parametrize(("global_step", "accumulate", "next_step"), [(0, 1, 0), (7, 1, 7), (7, 3, 21), (1, 4, 4)])
def test_training_goes_on_at_the_trainers_step(global_step: int, accumulate: int, next_step: int) -> None:
    data = module(at={"global_step": global_step, "accumulate_grad_batches": accumulate})
    assert data.next_step == next_step
    for i, inputs in enumerate(first(data, 3)):
        assert torch.equal(inputs, expected(next_step + i))


def test_step_is_the_trainers() -> None:
    """The trainer is asked when iteration begins."""
    data = module(at={})
    loader = data.train_dataloader()
    data.trainer.global_step = 9  # type: ignore[union-attr, misc]
    assert torch.equal(next(iter(loader))[0], expected(9))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_devices_share_each_batch(world_size: int) -> None:
    parts = [first(module(at={"global_rank": r, "world_size": world_size}), 3) for r in range(world_size)]
    for step in range(3):
        together = torch.empty_like(expected(step))
        for rank in range(world_size):
            together[rank::world_size] = parts[rank][step]
        assert torch.equal(together, expected(step))


def test_batch_not_divisible_by_devices() -> None:
    """Devices that cannot share a batch are refused."""
    module(at={"world_size": 4}).setup("fit")
    with pytest.raises(UsageError) as error:
        module(at={"world_size": 5}).setup("fit")
    assert str(error.value) == "batch_size (12) is shared by 5 devices, so it must be a multiple of 5"


def test_impossible_sizes() -> None:
    """A batch or a context that cannot be is refused at once."""
    with pytest.raises(UsageError, match=r"^batch_size \(0\) must be at least 1$"):
        module(batch_size=0)
    with pytest.raises(UsageError, match=r"^model\.context \(200\) is too long for this data"):
        module(context=200)


# Validation


@steady
@given(
    val=st.integers(2, 90),
    context=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 5),
    val_tokens=st.integers(1, 100),
)
def test_devices_share_validation(val: int, context: int, batch_size: int, world_size: int, val_tokens: int) -> None:
    """All devices together predict every token but the first once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datamodule, "VAL_TOKENS", val_tokens)
        data = [
            module(
                val,
                context=context,
                batch_size=batch_size * world_size,
                at={"global_rank": r, "world_size": world_size},
            )
            for r in range(world_size)
        ]
        loaders = [d.val_dataloader() for d in data]
        parts: list[list[Batch]] = [list(loader) for loader in loaders]
    predicted = Counter(t for part in parts for _, targets, *_ in part for t in targets.flatten().tolist())
    predicted.pop(IGNORED, None)
    assert predicted == Counter(range(1, val))
    for inputs, targets, *_ in itertools.chain(*parts):
        real = targets != IGNORED
        assert torch.equal(inputs[real] + 1, targets[real])
    # As many batches of as many rows everywhere: a device that has none would leave the others waiting.
    assert len({tuple(inputs.shape for inputs, *_ in part) for part in parts}) == 1
    assert all(len(loader) == len(part) for loader, part in zip(loaders, parts, strict=True))


def test_validation_batch_size() -> None:
    """Validation batches are large whatever the training batch."""
    data = TextDataModule(splits(20_000), seed=0, batch_size=2, context=100)
    shapes = [inputs.shape for inputs, *_ in data.val_dataloader()]
    assert shapes == [(81, 100), (81, 100), (38, 100)]
    wide = TextDataModule(splits(20_000), seed=0, batch_size=150, context=100)
    assert [inputs.shape for inputs, *_ in wide.val_dataloader()] == [(150, 100), (50, 100)]


def test_validation_is_fixed() -> None:
    """Validation is the same at every step and for every seed."""
    early, late = module(at={}), module(at={"global_step": 9}, seed=8)
    for a, b in zip(early.val_dataloader(), late.val_dataloader(), strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


# With a real trainer


class Watcher(L.LightningModule):
    """Notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.trained: list[Tensor] = []
        self.validated = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.trained.append(batch[0])
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated += int((batch[1] != IGNORED).sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(max_steps: int, accumulate: int, checkpoint: Path, resume: bool = False) -> Watcher:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        accumulate_grad_batches=accumulate,
        val_check_interval=2 * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        **quiet,
    )
    model = Watcher()
    trainer.fit(model, module(), ckpt_path=checkpoint if resume else None, weights_only=True if resume else None)
    trainer.save_checkpoint(checkpoint)
    return model


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")  # raised inside Lightning
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_repeats_and_skips_no_batch(accumulate: int, tmp_path: Path) -> None:
    whole = fit(6, accumulate, tmp_path / "whole.ckpt")
    for step, inputs in enumerate(whole.trained):
        assert torch.equal(inputs, expected(step))
    assert len(whole.trained) == 6 * accumulate and whole.validated == 3 * 42
    for stop in (2, 3):  # with and without a validation just before
        before = fit(stop, accumulate, tmp_path / f"{stop}.ckpt")
        after = fit(6, accumulate, tmp_path / f"{stop}.ckpt", resume=True)
        seen = before.trained + after.trained
        assert len(seen) == len(whole.trained)
        assert all(torch.equal(a, b) for a, b in zip(seen, whole.trained, strict=True))
