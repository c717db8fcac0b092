"""Rows packed with whole documents of a text, which do not see each other."""

import hashlib
import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Integer

from attnlab.data.batches import TokenSplits
from attnlab.data.dataset import IGNORED, Batch, Dataset
from attnlab.data.epoch_order import shuffled
from attnlab.data.text import Order
from attnlab.data.tokenizers import Tokenizer
from attnlab.data.unigram import unigram_entropy
from attnlab.errors import UsageError

AT_ONCE = 1024  # validation pieces that are packed together
MARGIN, STRETCH = 64, 1 << 20  # tokens around a stretch in which borders are looked for, and those of a stretch


class Excerpt(NamedTuple):
    """Inputs that stand in a row as a document of their own: the first token, and how many there are."""

    start: int
    length: int


@dataclass(frozen=True, eq=False)
class Pieces:
    """The documents of a text as inputs of rows of `context` tokens.

    Of a document every token but the last is an input, and the one after it what it is to say: nothing is asked across
    a border. One with more inputs is cut after every `context`; each part counts as a document of its own.
    """

    firsts: Int64[np.ndarray, " d"]
    n_inputs: Int64[np.ndarray, " d"]
    until: Int64[np.ndarray, " d"]  # pieces of the documents up to each, its own included
    context: int

    @classmethod
    def of(cls, ends: Int64[np.ndarray, " d"], context: int) -> "Pieces":
        """Those of documents that end at `ends`, exclusive."""
        firsts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        n_inputs = np.maximum(ends - firsts - 1, 0)
        return cls(firsts, n_inputs, np.cumsum(-(-n_inputs // context)), context)

    def __len__(self) -> int:
        return int(self.until[-1])

    @property
    def n_tokens(self) -> int:
        """How many inputs there are in all."""
        return int(self.n_inputs.sum())

    def take(self, numbers: Int64[np.ndarray, " n"]) -> list[Excerpt]:
        """The pieces with these numbers."""
        document = np.searchsorted(self.until, numbers, side="right")
        earlier = numbers - (self.until[document] - -(-self.n_inputs[document] // self.context))
        starts = self.firsts[document] + earlier * self.context
        lengths = np.minimum(self.n_inputs[document] - earlier * self.context, self.context)
        return [Excerpt(*each) for each in zip(starts.tolist(), lengths.tolist(), strict=True)]


def pack(
    pieces: Iterable[Excerpt], context: int, n_rows: int | None = None
) -> tuple[list[list[Excerpt]], list[Excerpt]]:
    """Rows of whole pieces, and those for which `n_rows` rows have no room, longest first.

    Each piece, from the longest on, goes where it leaves the least room (best fit decreasing). Without `n_rows` there
    are as many rows as it takes.
    """
    rows: list[list[Excerpt]] = [[] for _ in range(n_rows or 0)]
    rooms, left = [(context, row) for row in range(len(rows))], []
    for piece in sorted(pieces, key=lambda piece: -piece.length):
        fits = bisect_left(rooms, (piece.length, -1))
        if fits < len(rooms):
            room, row = rooms.pop(fits)
        elif n_rows is None:
            room, row = context, len(rows)
            rows.append([])
        else:
            left.append(piece)
            continue
        rows[row].append(piece)
        insort(rooms, (room - piece.length, row))
    return rows, left


@dataclass(frozen=True, eq=False)
class PackedDocuments(Dataset):
    """A text whose rows hold whole documents with their borders; `train_ends` and `val_ends` are where those end.

    **Training.** A batch is a function of (corpus, seed, step): pieces are drawn, each as likely as another, until they
    fill the rows of all ranks, and packed; where no whole piece fits, the beginning of one that is left over stands, so
    that no row is padded. In the order of epochs a step draws on where, pieces being of mean length, those before it
    have ended: nearly all come once an epoch, and a few twice or not at all. **Validation.** Every token but the first
    of each document is a target exactly once; what whole pieces leave of a row is padding.
    """

    documents: ClassVar[bool] = True  # type: ignore[misc]
    splits: TokenSplits
    train_ends: Int64[np.ndarray, " d"]
    val_ends: Int64[np.ndarray, " e"]
    scored_bytes: int | None
    _pieces: dict[int, Pieces] = field(default_factory=dict)
    _val_rows: dict[int, list[list[Excerpt]]] = field(default_factory=dict)

    @property
    def n_vocab(self) -> int:  # type: ignore[override]
        """How many kinds of tokens there are."""
        return self.splits.n_vocab

    @property
    def order(self) -> Order:  # type: ignore[override]
        """How training documents follow each other."""
        return self.splits.order

    @property
    def skipped(self) -> Mapping[str, Any]:  # type: ignore[override]
        """What of the text was left out."""
        return self.splits.skipped

    @property
    def sha256(self) -> str:
        return self._borders(self.splits.sha256)

    @property
    def val_sha256(self) -> str | None:  # type: ignore[override]
        """Of the validation text and its borders: without them it is another one to be judged by."""
        return None if self.splits.val_sha256 is None else self._borders(self.splits.val_sha256)

    def _borders(self, text: str) -> str:
        return hashlib.sha256(
            b"/".join([text.encode(), self.train_ends.tobytes(), self.val_ends.tobytes()])
        ).hexdigest()

    def check_context(self, context: int) -> None:
        if context < 1:
            raise UsageError(f"model.context ({context}) must be at least 1")

    def train_batch(
        self, *, seed: int, step: int, batch_size: int, context: int, rank: int = 0, world_size: int = 1
    ) -> Batch:
        if context not in self._pieces:
            self._pieces[context] = Pieces.of(self.train_ends, context)
        pieces = self._pieces[context]
        tokens, drawn = batch_size * context, list[Excerpt]()
        count = 2 * tokens * len(pieces) // pieces.n_tokens + batch_size  # about twice as many as will do
        while sum(piece.length for piece in drawn) < 2 * tokens:  # the same ones and more, where these were short
            drawn, count = pieces.take(self._draws(pieces, seed, step, tokens, count)), 2 * count
        total = np.cumsum([piece.length for piece in drawn])
        enough = int(np.searchsorted(total, tokens)) + 1
        rows, left = pack(drawn[:enough], context, batch_size)
        rest = iter([*left, *drawn[enough:]])
        for row in rows:
            while room := context - sum(piece.length for piece in row):
                piece = next(rest)
                row.append(piece._replace(length=min(piece.length, room)))
        return _batch(self.splits.train, rows[rank::world_size], context)

    def _draws(self, pieces: Pieces, seed: int, step: int, tokens: int, count: int) -> Int64[np.ndarray, " n"]:
        """Numbers of the pieces that a step of so many tokens draws, one after the other."""
        word = f"{self.splits.sha256}/documents/{seed}"
        if self.splits.order == "epoch":
            first = step * tokens * len(pieces) // pieces.n_tokens
            return shuffled(len(pieces), word, np.arange(first, first + count))
        key = int.from_bytes(hashlib.sha256(f"{word}/{step}".encode()).digest()[:16], "little")
        return (np.random.Philox(key=key).random_raw(count) % np.uint64(len(pieces))).astype(np.int64)

    def epochs(self, rows: int, context: int) -> float | None:
        """How often the documents have been gone through after so many rows; None where they are drawn at random."""
        return None if self.splits.order == "random" else rows * context / Pieces.of(self.train_ends, context).n_tokens

    def n_val_rows(self, context: int) -> int:
        if context not in self._val_rows:
            pieces, rows = Pieces.of(self.val_ends, context), list[list[Excerpt]]()
            for first in range(0, len(pieces), AT_ONCE):
                rows += pack(pieces.take(np.arange(first, min(first + AT_ONCE, len(pieces)))), context)[0]
            self._val_rows[context] = rows
        return len(self._val_rows[context])

    def val_batch(self, rows: Integer[np.ndarray, " b"], *, context: int, seed: int = 0) -> Batch:
        n_rows = self.n_val_rows(context)
        return _batch(self.splits.val, [self._val_rows[context][i] if i < n_rows else [] for i in rows], context)

    def baseline_loss(self, context: int) -> float:
        return self._guessing

    @cached_property
    def _guessing(self) -> float:
        return unigram_entropy(self.splits.train, self.splits.val, self.n_vocab, first_tokens(self.val_ends))

    def example(self, tokenizer: Tokenizer, context: int, seed: int = 0) -> list[int]:
        return self.splits.example(tokenizer, context, seed)

    def probe(self, tokenizer: Tokenizer, most: int, seed: int = 0) -> str:
        return self.splits.probe(tokenizer, most, seed)

    def describe(self, context: int) -> str:
        padding = 1 - Pieces.of(self.val_ends, context).n_tokens / (self.n_val_rows(context) * context)
        return (
            f"{self.splits.describe(context)}; rows are packed with {len(self.train_ends):,} and "
            f"{len(self.val_ends):,} documents ({padding:.1%} of the validation rows is padding)"
        )


def _batch(ids: Integer[np.ndarray, " n"], rows: Sequence[Sequence[Excerpt]], context: int) -> Batch:
    """Rows of pieces one behind the other; padding at the end of a row is a document of its own, of token 0."""
    places = np.full((len(rows), context), -1)
    numbers = np.zeros((len(rows), context), np.int64)
    for row, pieces in enumerate(rows):
        first = 0
        for number, (start, length) in enumerate(pieces):
            places[row, first : first + length] = np.arange(start, start + length)
            numbers[row, first : first + length] = number
            first += length
        numbers[row, first:] = len(pieces)
    inputs = np.where(places < 0, 0, ids[places].astype(np.int64))
    targets = np.where(places < 0, IGNORED, ids[places + 1].astype(np.int64))
    return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), documents=torch.from_numpy(numbers))


def ends_of(ids: Integer[np.ndarray, " n"], tokenizer: Tokenizer, separator: str) -> Int64[np.ndarray, " d"]:
    """Where documents end, exclusive: behind the token that holds the last byte of what matches `separator`.

    Borders are looked for in stretches that overlap by 64 tokens on both sides, so a match must be shorter.
    """
    pattern, lengths = re.compile(separator.encode()), np.array([len(token) for token in tokenizer.tokens])
    ends = {len(ids)}
    for first in range(0, len(ids), STRETCH):
        start = max(0, first - MARGIN)
        stretch = ids[start : first + STRETCH + MARGIN]
        reached = np.cumsum(lengths[stretch])
        for match in pattern.finditer(tokenizer.decode_bytes(stretch)):
            end = start + int(np.searchsorted(reached, match.end())) + 1
            if match.end() and first < end <= first + STRETCH:
                ends.add(end)
    return np.array(sorted(ends))


def packed(splits: TokenSplits, tokenizer: Tokenizer, separator: str | None) -> PackedDocuments:
    """The text with its documents: those it came in, or else what `separator` parts."""
    train_ends, val_ends = (
        _ends(*part, tokenizer, separator)
        for part in (("training", splits.train, splits.train_ends), ("validation", splits.val, splits.val_ends))
    )
    scored = splits.scored_bytes
    if scored is not None:  # the first token of a document is not predicted; that of the first one is left out already
        scored -= sum(len(tokenizer.tokens[i]) for i in splits.val[first_tokens(val_ends)].tolist())
    return PackedDocuments(splits, train_ends, val_ends, scored)


def first_tokens(ends: Int64[np.ndarray, " d"]) -> Int64[np.ndarray, " f"]:
    """Where documents that end at `ends` begin, but for the first of all; one without tokens has no beginning."""
    return np.unique(ends[:-1][ends[:-1] < ends[-1]])


def _ends(
    part: str,
    ids: Integer[np.ndarray, " n"],
    ends: Int64[np.ndarray, " d"] | None,
    tokenizer: Tokenizer,
    separator: str | None,
) -> Int64[np.ndarray, " d"]:
    if ends is None:
        if separator is None:
            raise UsageError(
                "data.documents (true) needs documents, and the text is one: say in data.separator what parts them, "
                "as a regular expression"
            )
        ends = ends_of(ids, tokenizer, separator)
    if not Pieces.of(ends, 1).n_tokens:
        raise UsageError(f"data.documents (true): no document of the {part} text has two tokens, so nothing is asked")
    return ends
