"""The frame of a task: rows as a function of (seed, step, split), tokens with names, hits counted by difficulty."""

import copy
import hashlib
import inspect
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer, UInt64

from attnlab.data.dataset import IGNORED, Batch, Dataset
from attnlab.data.epoch_order import shuffled
from attnlab.data.predictors import (
    AnswerScore,
    Floor,
    Predictor,
    Rows,
    best_of,
    by_count,
    by_distance,
    by_place,
    most_frequent,
)
from attnlab.data.text import Text
from attnlab.data.tokenizers import TaskTokenizer, Tokenizer
from attnlab.data.vocabularies import Vocabulary
from attnlab.errors import UsageError
from attnlab.options import Count

Split = Literal["train", "pool", "val", "test", "floor"]
TRAINING: tuple[Split, ...] = ("train", "pool")
BLOCK = 32  # validation rows that are drawn together
POOLED = 256  # and rows of a pool
PATIENCE = 64  # draws without a new row, for each row that a pool holds, after which there are taken to be no more
SLICES = 18
GAPS = tuple(f"gap_{1 << i}" for i in range(SLICES))  # gap_8: the answer stands 8 to 15 tokens back
PLACES = tuple(f"place_{1 << i}" for i in range(SLICES))  # place_8: the 8th to 15th place that is asked


PERFECT = AnswerScore(1.0, 0.0)
HELD_OUT = 1 / 8  # of all rows there can be, as their hash says: validation draws from these, training from the others
PROBE, LEAST_ROWS = 512, 32  # rows drawn to see whether there are enough of them, and how many must differ on each side
FRESH = 2048  # rows that a floor is fitted on, and as many that it is scored on


OF_EVERY_TASK = ("val_rows", "pool", "min_length")


class Task(Dataset):
    """Rows that are made up as they are needed, with an answer that is known.

    A subclass draws its rows in its docstring, names its tokens, says which of them may be `answers`, states the score
    of an exact solver (`best`, the ceiling), and writes `draw`. What can be had without the mechanism that it asks for
    (the floor) is measured: `predictors` name the ways. Its settings are the arguments of `__init__`, kept in
    attributes of the same names; those that every task has it takes as `**rows` and hands on. The length of a row is
    model.context and no setting of the task.

    `val_rows` is how many validation rows there are. With `pool`, training goes through so many rows again and again,
    in a new order each time: different ones, drawn from the seed of the data, those of a smaller pool among those of a
    larger one. With `min_length`, a training row has so many tokens or more up to model.context, each length as often
    as another; blanks that nothing is asked of follow. Validation rows are the same whatever these two are.

    A hash of its tokens gives every row that there can be to training or to validation, so that no training batch of
    any seed holds a validation row of any other. Where there are too few rows to part, both draw from all.
    """

    scored_bytes: int | None = None
    solved_at: ClassVar[float | None] = 0.99
    slice_names: ClassVar[Sequence[str]] = GAPS
    predictors: ClassVar[tuple[Predictor, ...]] = (most_frequent, by_place, by_distance, by_count)

    def __init__(
        self,
        names: Sequence[str],
        /,
        val_rows: int = 1024,
        *,
        answers: range,
        pool: Count | None = None,
        min_length: Count | None = None,
    ) -> None:
        self.names, self.n_vocab, self.val_rows, self.answers = tuple(names), len(names), val_rows, answers
        least("val_rows", val_rows, 1)
        for key, value in (("pool", pool), ("min_length", min_length)):
            if value is not None:
                least(key, value, 1)
        self.pool, self.min_length = pool, min_length
        self._pools: dict[tuple[int, int], Rows] = {}
        self._blocks: dict[tuple[int, int, int], Rows] = {}  # of validation rows, which are asked for again and again
        self._floors: dict[int, Floor] = {}
        self._parted: dict[int, bool] = {}
        self._judged: Split = "val"

    def tested(self) -> "Task":
        """The same task with rows of a third stream where the validation rows were."""
        other = copy.copy(self)
        other._blocks, other._judged = {}, "test"
        return other

    @abstractmethod
    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        """So many rows of this length."""

    @abstractmethod
    def shortest(self) -> int:
        """The least length of a row that holds what is asked for."""

    def settings(self) -> dict[str, Any]:
        """What the rows depend on, besides seed, step and length."""
        own = (p for p in inspect.signature(type(self)).parameters.values() if p.kind is not p.VAR_KEYWORD)
        return {p.name: getattr(self, p.name) for p in own if p.name not in OF_EVERY_TASK}

    def floor(self, length: int) -> Floor:
        """The best of the predictors, fitted and scored on rows that are nobody's."""
        if length not in self._floors:
            fit, rows = (self._draw("floor", 0, part, FRESH, length) for part in (0, 1))
            self._floors[length] = best_of(self.predictors, fit, rows, self.answers)
        return self._floors[length]

    def best(self, length: int, seed: int = 0) -> AnswerScore:
        """The ceiling: what an exact solver reaches on the validation rows of a seed."""
        return PERFECT

    def exact_nats(self, rows: Rows) -> Float[np.ndarray, "b t"]:
        """The loss of an exact solver at each answer of these rows: 0 where every answer is certain."""
        return np.zeros(rows.inputs.shape)

    def validation(self, length: int, seed: int = 0) -> Rows:
        """All validation rows of a length and a seed (streams.eval)."""
        blocks = [self._block(seed, i, length) for i in range(-(-self.val_rows // BLOCK))]
        return Rows(*(np.concatenate(part)[: self.val_rows] for part in zip(*blocks, strict=True)))

    def overlap(self, length: int, seed: int = 0, data_seed: int = 0) -> float:
        """The share of validation rows that training can show, too: 0 where rows were parted, else measured on its
        pool, or on 8192."""
        if self.parted(length):
            return 0.0
        rows = self.training_pool(length, data_seed) if self.pool else self._draw("floor", 0, 2, 8192, length)
        shown = _hash(rows.inputs)
        return float(np.isin(_hash(self.validation(length, seed).inputs), shown).mean())

    def parted(self, length: int) -> bool:
        """Whether there are enough rows of this length to give some to validation alone."""
        if length not in self._parted:
            drawn = np.unique(_hash(self._draw("floor", 0, 3, PROBE, length).inputs))
            held_out = int(_held_out(drawn).sum())
            self._parted[length] = min(held_out, len(drawn) - held_out) >= LEAST_ROWS
        return self._parted[length]

    def tokenizer(self) -> TaskTokenizer:
        """The names of the tokens."""
        return TaskTokenizer(type(self).__name__, [f"{name} ".encode() for name in self.names])

    @property
    def sha256(self) -> str:
        training = {"pool": self.pool, "min_length": self.min_length}
        return self._definition({key: value for key, value in training.items() if value is not None})

    def _definition(self, training: Mapping[str, Any]) -> str:
        definition = {"task": type(self).__qualname__, **self.settings(), "val_rows": self.val_rows, "rows": "parted"}
        return hashlib.sha256(json.dumps({**definition, **training}, sort_keys=True).encode()).hexdigest()

    def check_context(self, context: int) -> None:
        if context < self.shortest():
            settings = ", ".join(f"data.{key}={value}" for key, value in self.settings().items())
            raise UsageError(
                f"model.context ({context}) is too short for {type(self).__name__} ({settings}): "
                f"a row takes at least {self.shortest()} tokens"
            )
        if self.min_length is not None and not self.shortest() <= self.min_length <= context:
            raise UsageError(
                f"data.min_length ({self.min_length}) must be at least {self.shortest()}, the shortest row that "
                f"{type(self).__name__} has with these settings, and at most model.context ({context})"
            )

    def train_batch(
        self, *, seed: int, step: int, batch_size: int, context: int, rank: int = 0, world_size: int = 1
    ) -> Batch:
        if self.pool is None:
            drawn = self._draw("train", seed, step, batch_size, context)
        else:
            visits = np.arange(step * batch_size, (step + 1) * batch_size)
            which = shuffled(self.pool, f"{self._definition({})}/pool/{seed}", visits)
            drawn = Rows(*(part[which] for part in self.training_pool(context, seed)))
        inputs, targets = (torch.from_numpy(part[rank::world_size].copy()) for part in drawn[:2])
        return Batch(inputs, targets)

    def training_pool(self, length: int, seed: int = 0) -> Rows:
        """The rows that training goes through with `pool`; refused where there are not so many different ones."""
        assert self.pool is not None
        if (length, seed) not in self._pools:
            blocks, first, n_drawn = list[Rows](), dict[int, int](), 0  # of each row by its hash, where it came first
            last = 0  # the draw that brought a new row
            while len(first) < self.pool:
                blocks.append(self._draw("pool", seed, len(blocks), POOLED, length))
                for at, number in enumerate(_hash(blocks[-1].inputs).tolist(), n_drawn):
                    last = at if first.setdefault(number, at) == at else last
                n_drawn += POOLED
                if n_drawn - last > PATIENCE * max(len(first), POOLED) and len(first) < self.pool:
                    raise UsageError(
                        f"data.pool ({self.pool}) must be at most {len(first)}: there are no more different rows of "
                        f"{length} tokens for training"
                    )
            own = list(first.values())[: self.pool]
            self._pools = {(length, seed): Rows(*(np.concatenate(part)[own] for part in zip(*blocks, strict=True)))}
        return self._pools[length, seed]

    def epochs(self, rows: int, context: int) -> float | None:
        return None if self.pool is None else rows / self.pool

    def n_val_rows(self, context: int) -> int:
        return self.val_rows

    def val_batch(self, rows: Integer[np.ndarray, " b"], *, context: int, seed: int = 0) -> Batch:
        blocks = {int(i): self._block(seed, int(i), context) for i in np.unique(rows // BLOCK)}
        parts = [[blocks[int(row) // BLOCK][part][int(row) % BLOCK] for row in rows] for part in range(3)]
        inputs, targets, slices = (np.stack(part) for part in parts)
        targets = np.where((rows < self.val_rows)[:, None], targets, IGNORED)
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(slices))

    def _block(self, seed: int, number: int, length: int) -> Rows:
        """Validation rows are drawn `BLOCK` at a time, so that their number does not change the first ones."""
        key = (seed, number, length)
        if key not in self._blocks:
            if len(self._blocks) >= -(-self.val_rows // BLOCK):
                self._blocks.clear()  # of another length: one whole set is kept
            self._blocks[key] = self._draw(self._judged, seed, number, BLOCK, length)
        return self._blocks[key]

    def _draw(self, split: Split, seed: int, step: int, rows: int, length: int) -> Rows:
        """A pure function of its arguments and the settings, so that all variants see the same."""
        key = hashlib.sha256(f"{self._definition({})}/{split}/{seed}/{step}/{length}".encode()).digest()[:16]
        rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        draw = self._draw_lengths if split in TRAINING and self.min_length is not None else self.draw
        if split == "floor" or not self.parted(length):
            return draw(rng, rows, length)
        share = 1 - HELD_OUT if split in TRAINING else HELD_OUT
        parts, missing = list[Rows](), rows
        while missing > 0:
            drawn = draw(rng, int(missing / share) + 8, length)
            own = np.flatnonzero(_held_out(_hash(drawn.inputs)) == (split not in TRAINING))[:missing]
            parts.append(Rows(*(part[own] for part in drawn)))
            missing -= len(own)
        return Rows(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _draw_lengths(self, rng: np.random.Generator, rows: int, length: int) -> Rows:
        """Rows of `min_length` tokens or more, each length as likely as another, with blanks behind them."""
        assert self.min_length is not None
        batch, lengths = blank(rows, length), rng.integers(self.min_length, length + 1, size=rows)
        for n in np.unique(lengths):
            own = lengths == n
            for whole, part in zip(batch, self.draw(rng, int(own.sum()), int(n)), strict=True):
                whole[own, :n] = part
        return batch

    def baseline_loss(self, context: int) -> float:
        return self.floor(context).loss

    def example(self, tokenizer: Tokenizer, context: int, seed: int = 0) -> list[int]:
        row = self._block(seed, 0, context)
        last = int(np.flatnonzero(row.asked[0])[-1])  # what comes after is blank
        ids: list[int] = row.inputs[0, : last + 1].tolist()
        return ids

    def describe(self, context: int) -> str:
        floor, ceiling, overlap = self.floor(context), self.best(context), self.overlap(context)
        apart = "none of which training shows" if not overlap else f"{overlap:.0%} of which training can show, too"
        tokens = f"{context}" if self.min_length is None else f"{self.min_length} to {context}"
        pool = "" if self.pool is None else f"{self.pool:,} of them to train on; "
        return (
            f"{type(self).__name__}: rows of {tokens} tokens of {self.n_vocab:,} kinds; {pool}right by guessing "
            f"{floor.accuracy:.1%} ({floor.predictor}), at best {ceiling.accuracy:.1%}; {self.val_rows:,} validation "
            f"rows{f' of {context}' if self.min_length else ''}, {apart}"
        )


def _hash(inputs: Int64[np.ndarray, "b t"]) -> UInt64[np.ndarray, " b"]:
    """A number for each row: the sum of its tokens times random numbers, modulo 2^64 (multiply-shift hashing of
    vectors, Dietzfelbinger 1996). The random numbers are raw Philox output, which numpy promises not to change."""
    weights = np.random.Philox(key=inputs.shape[1]).random_raw(inputs.shape[1])
    total: np.ndarray = ((inputs + 1).astype(np.uint64) * weights).sum(axis=1)
    return total


def _held_out(hashes: UInt64[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
    """Which rows are for validation: those whose number is in the lowest `HELD_OUT` of all."""
    return hashes < np.uint64(HELD_OUT * 2**64)


class TaskTokens(Vocabulary):
    """The vocabulary of a task, which names its own tokens: the only one that goes with a task, and with no text."""

    def build(self, text: Text, cache_dir: Path | str) -> Tokenizer:
        raise UsageError("tokenizer=task names the tokens of a task: choose tokenizer=bpe, char or byte for a text")


def least(key: str, value: int, smallest: int) -> None:
    """Refuse a setting that is too small."""
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise UsageError(f"data.{key} ({value}) must be an integer of at least {smallest}")


def distinct(rng: np.random.Generator, rows: int, n: int, among: int) -> Int64[np.ndarray, "b n"]:
    """For each row, n different numbers of 0 .. among - 1, in random order."""
    if n * n > among:
        return rng.random((rows, among)).argsort(axis=1)[:, :n].astype(np.int64)
    drawn = rng.integers(among, size=(rows, n))  # few of many: seldom are two the same, and such a row is drawn again
    while (again := np.flatnonzero((np.diff(np.sort(drawn, axis=1), axis=1) == 0).any(axis=1))).size:
        drawn[again] = rng.integers(among, size=(again.size, n))
    return drawn


def magnitude(number: Integer[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    """The power of two that a number from 1 reaches: 0 for 1, 1 for 2 and 3, 2 for 4 to 7."""
    return np.floor(np.log2(np.maximum(number, 1))).astype(np.int64)


def blank(rows: int, length: int, fill: int = 0) -> Rows:
    """Rows of one token in which nothing is asked."""
    shape = (rows, length)
    return Rows(np.full(shape, fill, np.int64), np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int64))


def mean_score(log_probabilities: Float[np.ndarray, "n k"], answers: Int64[np.ndarray, " n"]) -> AnswerScore:
    """The score of saying these probabilities."""
    picked = np.take_along_axis(log_probabilities, answers[:, None], axis=1)
    return AnswerScore(float((log_probabilities.argmax(axis=1) == answers).mean()), float(-picked.mean()))
