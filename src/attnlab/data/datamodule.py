"""The batches as Lightning wants them: training never ends and starts at the trainer's step, validation covers all."""

import itertools
from collections.abc import Iterator

import lightning as L
import numpy as np

from attnlab.data.dataset import Batch, Dataset
from attnlab.errors import UsageError

VAL_TOKENS = 8192  # per validation batch at least, for speed; the result does not depend on it


class TextDataModule(L.LightningDataModule):
    """Random training rows and all validation rows of a text or a task.

    `batch_size` counts sequences per micro-step over all devices together; each holds `context` tokens. There
    is nothing to save: batch number `trainer.global_step * trainer.accumulate_grad_batches` is the next one
    wherever a run stands between two updates, so a resumed run repeats and skips none. `seed` is that of training
    rows, `eval_seed` that of the validation rows of a task.
    """

    def __init__(self, splits: Dataset, *, seed: int, batch_size: int, context: int, eval_seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"batch_size ({batch_size}) must be at least 1")
        splits.check_context(context)
        self.splits, self.batch_size, self.context = splits, batch_size, context
        self.seed, self.eval_seed = seed, eval_seed

    @property
    def rank(self) -> int:
        """Which of the processes this is, from 0."""
        return self.trainer.global_rank if self.trainer else 0

    @property
    def world_size(self) -> int:
        """How many processes share a batch."""
        return self.trainer.world_size if self.trainer else 1

    @property
    def next_step(self) -> int:
        """The micro-step that comes next."""
        return self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0

    def setup(self, stage: str) -> None:
        """Refuse a batch that the processes cannot share evenly."""
        if self.batch_size % self.world_size:
            raise UsageError(
                f"batch_size ({self.batch_size}) is shared by {self.world_size} devices, so it must be a multiple of "
                f"{self.world_size}"
            )

    # Lightning takes any iterable. A DataLoader would bring samplers, workers and warnings, and nothing we need.
    def train_dataloader(self) -> "TrainBatches":
        """This rank's share of batch `next_step`, the one after, and so on for ever."""
        return TrainBatches(self)

    def val_dataloader(self) -> "ValidationBatches":
        """This rank's share of the validation rows."""
        return ValidationBatches(self)


class TrainBatches:
    """An endless iterable of training batches, which asks the trainer where it stands when iteration begins."""

    def __init__(self, data: TextDataModule) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        for step in itertools.count(data.next_step):
            yield data.splits.train_batch(
                seed=data.seed,
                step=step,
                batch_size=data.batch_size,
                context=data.context,
                rank=data.rank,
                world_size=data.world_size,
            )


class ValidationBatches:
    """All validation rows, shared out over the ranks: row w goes to rank w % world_size.

    Every rank gets equally many rows, the last ones filled with padding that scores nothing, because a rank
    without a batch would not join the others in adding up.
    """

    def __init__(self, data: TextDataModule) -> None:
        self.data = data
        self.rows = max(data.batch_size // data.world_size, VAL_TOKENS // data.context, 1)
        windows = data.splits.n_val_rows(data.context)
        padded = -(-windows // data.world_size) * data.world_size
        self.windows = np.arange(data.rank, padded, data.world_size)

    def __len__(self) -> int:
        return -(-len(self.windows) // self.rows)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.windows), self.rows):
            windows = self.windows[first : first + self.rows]
            yield self.data.splits.val_batch(windows, context=self.data.context, seed=self.data.eval_seed)
