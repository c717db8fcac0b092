"""What a model is trained on and judged by, be it a text or a task: the one interface that training knows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor

from attnlab.data.text import Order
from attnlab.data.tokenizers import Tokenizer

IGNORED = -100  # the target that cross_entropy skips


class Batch(NamedTuple):
    """Tokens, and what is to be said after each; of a task the slice of each target, of packed rows the documents."""

    ids: Int64[Tensor, "b t"]
    targets: Int64[Tensor, "b t"]
    slices: Int64[Tensor, "b t"] | None = None
    documents: Int64[Tensor, "b t"] | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same on a device."""
        return Batch(*(None if part is None else part.to(device) for part in self))  # type: ignore[arg-type]


class Dataset(ABC):
    """Training batches as a pure function of (seed, step), and validation rows, of a task as one of a seed.

    `sha256` tells its contents apart, `scored_bytes` are the bytes of all validation targets, `val_sha256` is that
    of the validation text (both None where tokens are not text), and `slice_names` name the groups by which hits are
    counted. `order` is that of training rows, `documents` tells whether they hold whole documents, `skipped` counts
    what of a text was left out.
    """

    n_vocab: int
    scored_bytes: int | None
    val_sha256: str | None = None
    slice_names: ClassVar[Sequence[str]] = ()
    solved_at: ClassVar[float | None] = None  # the accuracy from which a run has solved it; None: it has degrees
    order: Order = "random"
    documents: bool = False
    skipped: Mapping[str, Any] = MappingProxyType({})

    @property
    @abstractmethod
    def sha256(self) -> str:
        """What tells its contents apart, in hexadecimal."""

    @abstractmethod
    def check_context(self, context: int) -> None:
        """Refuse a length that no row can have."""

    @abstractmethod
    def train_batch(
        self, *, seed: int, step: int, batch_size: int, context: int, rank: int = 0, world_size: int = 1
    ) -> Batch:
        """The batch of micro-step `step`; `batch_size` counts rows over all ranks."""

    def epochs(self, rows: int, context: int) -> float | None:
        """How often the training part has been gone through after so many rows; None where it is not gone through."""
        return None

    @abstractmethod
    def n_val_rows(self, context: int) -> int:
        """How many validation rows there are."""

    @abstractmethod
    def val_batch(self, rows: Integer[np.ndarray, " b"], *, context: int, seed: int = 0) -> Batch:
        """The validation rows with these numbers; a number past the last gives a row without targets."""

    @abstractmethod
    def baseline_loss(self, context: int) -> float:
        """The loss of guessing, in nats per target."""

    @abstractmethod
    def example(self, tokenizer: Tokenizer, context: int, seed: int = 0) -> list[int]:
        """Tokens that the validation part begins with, to look at or to go on from."""

    def probe(self, tokenizer: Tokenizer, most: int, seed: int = 0) -> str:
        """The text of which maps are taken where the user names none, of at most `most` tokens: the example's start."""
        return tokenizer.decode(self.example(tokenizer, most, seed)[:most])

    @abstractmethod
    def describe(self, context: int) -> str:
        """What it is, in half a line."""
