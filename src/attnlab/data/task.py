"""The frame of a task: rows as a function of (seed, step, split), tokens with names, hits counted by difficulty."""

import hashlib
import inspect
import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer

from attnlab.data.corpus import Corpus
from attnlab.data.material import IGNORED, Batch, Material, SlicedBatch
from attnlab.data.tokenizers import TaskTokenizer, Tokenizer
from attnlab.data.vocabularies import Vocabulary
from attnlab.errors import UsageError

BLOCK = 32  # validation rows that are drawn together
SLICES = 18
GAPS = tuple(f"gap_{1 << i}" for i in range(SLICES))  # gap_8: the answer stands 8 to 15 tokens back
PLACES = tuple(f"place_{1 << i}" for i in range(SLICES))  # place_8: the 8th to 15th place that is asked


class Score(NamedTuple):
    """What some way of answering comes to: the share of right answers, and nats per answer."""

    accuracy: float
    loss: float


PERFECT = Score(1.0, 0.0)


def guess(n: int) -> Score:
    """The score of guessing among n equally likely answers."""
    return Score(1 / n, math.log(n))


class Rows(NamedTuple):
    """Token ids, the answer wanted after each token (IGNORED: none), and the slice that an answer counts in."""

    inputs: Int64[np.ndarray, "b t"]
    targets: Int64[np.ndarray, "b t"]
    slices: Int64[np.ndarray, "b t"]

    @property
    def asked(self) -> Bool[np.ndarray, "b t"]:
        """Where an answer is wanted."""
        return self.targets != IGNORED


class Task(Material):
    """Rows that are made up as they are needed, with an answer that is known.

    A subclass draws its rows in its docstring, names its tokens, states the score of the best guess without the
    mechanism (`chance`, the floor) and that of an exact solver (`best`, the ceiling), and writes `draw`. Its
    settings are the arguments of `__init__`, kept in attributes of the same names; `val_rows` is how many
    validation rows there are. The length of a row is model.context and no setting of the task.
    """

    scored_bytes: int | None = None
    solved_at: ClassVar[float | None] = 0.99  # the accuracy from which a run has solved it; None: it has degrees
    slice_names: ClassVar[Sequence[str]] = GAPS

    def __init__(self, names: Sequence[str], val_rows: int) -> None:
        self.names, self.n_vocab, self.val_rows = tuple(names), len(names), val_rows
        least("val_rows", val_rows, 1)

    @abstractmethod
    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        """So many rows of this length."""

    @abstractmethod
    def shortest(self) -> int:
        """The least length of a row that holds what is asked for."""

    def settings(self) -> dict[str, Any]:
        """What the rows depend on, besides seed, step and length."""
        arguments = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in arguments if name != "val_rows"}

    def chance(self, length: int) -> Score:
        """The floor: the best guess without the mechanism that the task asks for."""
        raise NotImplementedError

    def best(self, length: int) -> Score:
        """The ceiling: what an exact solver reaches."""
        return PERFECT

    def validation(self, length: int) -> Rows:
        """All validation rows of a length."""
        blocks = [self._draw("val", 0, i, BLOCK, length) for i in range(-(-self.val_rows // BLOCK))]
        return Rows(*(np.concatenate(part)[: self.val_rows] for part in zip(*blocks, strict=True)))

    def tokenizer(self) -> TaskTokenizer:
        """The names of the tokens."""
        return TaskTokenizer(type(self).__name__, [f"{name} ".encode() for name in self.names])

    @property
    def sha256(self) -> str:
        words = {"task": type(self).__qualname__, **self.settings(), "val_rows": self.val_rows}
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()

    def check_context(self, context: int) -> None:
        if context < self.shortest():
            settings = ", ".join(f"data.{key}={value}" for key, value in self.settings().items())
            raise UsageError(
                f"model.context ({context}) is too short for {type(self).__name__} ({settings}): "
                f"a row takes at least {self.shortest()} tokens"
            )

    def train_batch(
        self, *, seed: int, step: int, batch_size: int, context: int, rank: int = 0, world_size: int = 1
    ) -> Batch:
        drawn = self._draw("train", seed, step, batch_size, context)
        inputs, targets = (torch.from_numpy(part[rank::world_size].copy()) for part in drawn[:2])
        return inputs, targets

    def n_val_rows(self, context: int) -> int:
        return self.val_rows

    def val_batch(self, rows: Integer[np.ndarray, " b"], *, context: int) -> SlicedBatch:
        blocks = {int(i): self._draw("val", 0, int(i), BLOCK, context) for i in np.unique(rows // BLOCK)}
        parts = [[blocks[int(row) // BLOCK][part][int(row) % BLOCK] for row in rows] for part in range(3)]
        inputs, targets, slices = (np.stack(part) for part in parts)
        targets = np.where((rows < self.val_rows)[:, None], targets, IGNORED)
        return torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(slices)

    def _draw(self, split: str, seed: int, step: int, rows: int, length: int) -> Rows:
        """A pure function of its arguments and the settings, so that all variants see the same."""
        key = hashlib.sha256(f"{self.sha256}/{split}/{seed}/{step}/{length}".encode()).digest()[:16]
        rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        return self.draw(rng, rows, length)

    def loss_to_beat(self, context: int) -> float:
        return self.chance(context).loss

    def example(self, tokenizer: Tokenizer, context: int) -> list[int]:
        ids: list[int] = self._draw("val", 0, 0, BLOCK, context).inputs[0].tolist()
        return ids

    def describe(self, context: int) -> str:
        floor, ceiling = self.chance(context), self.best(context)
        return (
            f"{type(self).__name__}: rows of {context} tokens of {self.n_vocab:,} kinds; right by guessing "
            f"{floor.accuracy:.1%}, at best {ceiling.accuracy:.1%}"
        )


class TaskTokens(Vocabulary):
    """The vocabulary of a task, which names its own tokens: the only one that goes with a task, and with no text."""

    def build(self, corpus: Corpus, cache_dir: Path | str) -> Tokenizer:
        raise UsageError("tokenizer=task names the tokens of a task: choose tokenizer=bpe, char or byte for a text")


def least(key: str, value: int, smallest: int) -> None:
    """Refuse a setting that is too small."""
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise UsageError(f"data.{key} ({value}) must be a whole number of at least {smallest}")


def distinct(rng: np.random.Generator, rows: int, n: int, among: int) -> Int64[np.ndarray, "b n"]:
    """For each row, n different numbers of 0 .. among - 1, in random order."""
    return rng.random((rows, among)).argsort(axis=1)[:, :n].astype(np.int64)


def magnitude(number: Integer[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    """The power of two that a number from 1 reaches: 0 for 1, 1 for 2 and 3, 2 for 4 to 7."""
    return np.floor(np.log2(np.maximum(number, 1))).astype(np.int64)


def blank(rows: int, length: int, fill: int = 0) -> Rows:
    """Rows of one token in which nothing is asked."""
    shape = (rows, length)
    return Rows(np.full(shape, fill, np.int64), np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int64))


def constant_guess(answers: Int64[np.ndarray, " n"]) -> Score:
    """The score of always saying how often each answer occurs: majority accuracy, and the entropy."""
    share = np.bincount(answers) / len(answers)
    held = share[share > 0]
    return Score(float(share.max()), float(-(held * np.log(held)).sum()))


def mean_score(log_probabilities: Float[np.ndarray, "n k"], answers: Int64[np.ndarray, " n"]) -> Score:
    """The score of saying these probabilities."""
    picked = np.take_along_axis(log_probabilities, answers[:, None], axis=1)
    return Score(float((log_probabilities.argmax(axis=1) == answers).mean()), float(-picked.mean()))
