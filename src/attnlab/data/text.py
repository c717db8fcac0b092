"""A text as tokenising knows it: stretches in order, each document of which is for training or for validation."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from attnlab.data.stretches import Bad, Split, TextPiece, Unit, read
from attnlab.errors import UsageError

Order = Literal["random", "epoch"]


class Text(ABC):
    """A text in two parts. `sha256` is that of its contents, `key` tells apart how it is read and split as well.

    `probe` is a sentence of which maps are taken by default; None: the first words of the validation part. `several`
    says whether it is made of documents that stand for themselves; `skipped` counts what was left out. Where ids
    are all there is, `largest` is the largest of them.
    """

    name: str
    sha256: str
    probe: str | None = None
    field: str = "text"
    split: Split | None = None
    several: bool = False
    largest: int | None = None

    @property
    @abstractmethod
    def key(self) -> str:
        """What decides which documents come in which order in which part."""

    @property
    def train_key(self) -> str:
        """The same of the training part alone."""
        return self.key

    @property
    @abstractmethod
    def n_train_bytes(self) -> int:
        """How many bytes of UTF-8 are for training."""

    @property
    @abstractmethod
    def val_sha256(self) -> str:
        """What tells the validation part apart; reads it."""

    @abstractmethod
    def units(self) -> Sequence[Unit]:
        """The stretches in order, as many together as one process does at a time."""

    def tested(self) -> "Text":
        """The same text with its test part, which was held back from both, where the validation part was."""
        raise no_test_part()

    @property
    def skipped(self) -> dict[str, Any]:
        """How many files and documents were left out, with examples; empty where none was."""
        return {}

    def training_pieces(self, most: int) -> Iterator[str]:
        """The training part, or about `most` bytes of it: of each unit the beginning, equal shares of each."""
        units = self.units()
        share, weight = most / max(1, self.n_train_bytes), sum(map(_weight, units))
        for unit in units:
            left = float("inf") if share >= 1 else share * self.n_train_bytes * _weight(unit) / weight
            for piece in self._pieces(unit):
                if left < 1:
                    break
                if piece.part == "train":
                    text = piece.text if piece.size <= left else piece.text[: int(left)]
                    left -= piece.size
                    yield text

    def _pieces(self, unit: Unit) -> Iterator[TextPiece]:
        for stretch in unit:
            for piece in read(stretch, self.field, self.split):
                if not isinstance(piece, Bad):
                    yield piece


def _weight(unit: Unit) -> int:
    return sum(stretch.weight for stretch in unit)


def no_test_part() -> UsageError:
    """What to say where a test part is asked for and none was held back."""
    return UsageError("the runs have no test part: train them with data.test_fraction=0.1")
