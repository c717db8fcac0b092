"""Token ids of a corpus and the batches cut from them: nothing here depends on what was trained before."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Integer

from attnlab.data.dataset import IGNORED, Batch, Dataset
from attnlab.data.epoch_order import n_epoch_windows, window_starts
from attnlab.data.text import Order, Text
from attnlab.data.tokenising import tokenise
from attnlab.data.tokenizers import Tokenizer
from attnlab.data.unigram import unigram_entropy
from attnlab.errors import UsageError

PROBE_TOKENS = 32  # of the validation text, of which maps are taken by default: enough to read, quick to draw


@dataclass(frozen=True, eq=False)
class TokenSplits(Dataset):
    """The token ids of both parts of a corpus, and what is needed to turn a validation loss into bits per byte.

    `scored_bytes` are the bytes of the validation tokens that are predicted: all but those of the first
    token. So bits per byte = (sum of losses in nats) / ln 2 / scored_bytes, whatever the tokenizer. None where the ids
    do not spell the text: a tokenizer that changes texts leaves fewer bytes to predict.

    `train_ends` and `val_ends` are where documents end, exclusive; None where the text is one. Training windows start
    at random places, or come in the `order` of an epoch. `unigram` is the loss of guessing, `skipped` what was left
    out, `remarks` what else there is to say of it.
    """

    train: Integer[np.ndarray, " n"]
    val: Integer[np.ndarray, " m"]
    n_vocab: int
    corpus_sha256: str
    scored_bytes: int | None
    corpus_probe: str | None = None
    val_sha256: str | None = None
    train_ends: Int64[np.ndarray, " d"] | None = None
    val_ends: Int64[np.ndarray, " e"] | None = None
    order: Order = "random"
    unigram: float | None = None
    skipped: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    def __post_init__(self) -> None:
        if len(self.val) < 2:
            raise UsageError(
                f"the validation text is {len(self.val)} token(s) long, so there is nothing to predict: "
                "raise data.val_fraction or give more text"
            )

    def check_context(self, context: int) -> None:
        """Refuse a context that no training window can fill."""
        if context < 1:
            raise UsageError(f"model.context ({context}) must be at least 1")
        if len(self.train) <= context:
            raise UsageError(
                f"model.context ({context}) is too long for this data: its training text is {len(self.train)} tokens, "
                f"so model.context must be at most {len(self.train) - 1}; or give more text with data= or data.path="
            )

    @property
    def sha256(self) -> str:
        return self.corpus_sha256

    def train_batch(
        self, *, seed: int, step: int, batch_size: int, context: int, rank: int = 0, world_size: int = 1
    ) -> Batch:
        if self.order == "epoch":
            key = f"{self.corpus_sha256}/{seed}"
            rows = np.arange(rank, batch_size, world_size) + step * batch_size
            return _windows(self.train, window_starts(len(self.train), context, key, rows), context)
        return train_batch(
            self.train,
            corpus_sha256=self.corpus_sha256,
            seed=seed,
            step=step,
            batch_size=batch_size,
            context=context,
            rank=rank,
            world_size=world_size,
        )

    def n_val_rows(self, context: int) -> int:
        return n_windows(len(self.val), context)

    def val_batch(self, rows: Integer[np.ndarray, " b"], *, context: int, seed: int = 0) -> Batch:
        return validation_batch(self.val, context=context, windows=rows)

    def unigram_entropy(self) -> float:
        """The loss of guessing tokens by how often they occur, in nats per predicted token."""
        return unigram_entropy(self.train, self.val, self.n_vocab) if self.unigram is None else self.unigram

    def baseline_loss(self, context: int) -> float:
        return self.unigram_entropy()

    def example(self, tokenizer: Tokenizer, context: int, seed: int = 0) -> list[int]:
        """The beginning of the first whole paragraph of the validation text: a cut by bytes may fall within a word."""
        text = tokenizer.decode(self.val[:4096])
        start = text.find("\n\n")
        return tokenizer.encode(text[start:].strip() if 0 <= start < len(text) // 2 else text)

    def probe(self, tokenizer: Tokenizer, most: int, seed: int = 0) -> str:
        """The corpus's own sentence if the tokenizer can write it, else the first words of the validation text."""
        if self.corpus_probe is not None and _is_encodable(self.corpus_probe, tokenizer):
            return self.corpus_probe
        ids = self.example(tokenizer, most)
        text, start = tokenizer.decode(ids), tokenizer.decode(ids[: min(most, PROBE_TOKENS)])
        while start and not text.startswith(start):  # a cut between two tokens may fall within a character
            start = start[:-1]
        return start or text[:1]

    def describe(self, context: int) -> str:
        parts = [f"{len(self.train):,} training and {len(self.val):,} validation tokens of {self.n_vocab:,} kinds"]
        if self.train_ends is not None and self.val_ends is not None:
            parts.append(f"{len(self.train_ends):,} and {len(self.val_ends):,} documents")
        if self.order == "epoch":
            parts.append(f"an epoch is {n_epoch_windows(len(self.train), context):,} rows")
        return "; ".join([*parts, *self.remarks])

    def epochs(self, rows: int, context: int) -> float | None:
        """How often the training text has been gone through after so many rows; None where places are random."""
        return None if self.order == "random" else rows / n_epoch_windows(len(self.train), context)


def load_splits(
    text: Text, tokenizer: Tokenizer, cache: Path | str, *, order: Order | None = None, keep: bool = True
) -> TokenSplits:
    """The ids of both parts of a text; they are kept under `cache`, unless `keep` is False.

    `order` None is random for a single text, epoch for one of several documents.
    """
    index, arrays = tokenise(text, tokenizer, Path(cache), keep=keep)
    val = arrays["val.ids"]
    scored = None if index.val_bytes is None else index.val_bytes - len(tokenizer.decode_bytes(val[:1]))
    return TokenSplits(
        arrays["train.ids"],
        val,
        tokenizer.n_vocab,
        text.sha256,
        scored,
        text.probe,
        index.val_sha256,
        train_ends=arrays["train.ends"] if text.several else None,
        val_ends=arrays["val.ends"] if text.several else None,
        order=order or ("epoch" if text.several else "random"),
        unigram=index.unigram,
        skipped=text.skipped,
    )


def _is_encodable(text: str, tokenizer: Tokenizer) -> bool:
    try:
        tokenizer.encode(text)
    except UsageError:
        return False
    return True


def train_batch(
    ids: Integer[np.ndarray, " n"],
    *,
    corpus_sha256: str,
    seed: int,
    step: int,
    batch_size: int,
    context: int,
    rank: int = 0,
    world_size: int = 1,
) -> Batch:
    """The batch of micro-step `step`: windows at random places, each with itself one token later as targets.

    A pure function of its arguments, so a run that is resumed anywhere sees what it would have seen, and all
    variants see the same. `batch_size` counts rows over all ranks, of which this one gets rows rank, rank +
    world_size, ... The places come from raw Philox output (SC 2011, doi 10.1145/2063384.2063405), which numpy
    promises not to change.
    """
    n_places = len(ids) - context
    assert n_places > 0, "TokenSplits.check_context comes first"
    key = hashlib.sha256(f"{corpus_sha256}/{seed}/{step}".encode()).digest()[:16]
    raw = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(batch_size)
    starts = (raw % np.uint64(n_places)).astype(np.int64)[rank::world_size]
    return _windows(ids, starts, context)


def _windows(ids: Integer[np.ndarray, " n"], starts: Int64[np.ndarray, " b"], context: int) -> Batch:
    windows = torch.from_numpy(ids[starts[:, None] + np.arange(context + 1)].astype(np.int64))
    return Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())


def n_windows(n_tokens: int, context: int) -> int:
    """How many windows it takes to predict every token but the first once."""
    return math.ceil((n_tokens - 1) / context)


def validation_batch(ids: Integer[np.ndarray, " n"], *, context: int, windows: Integer[np.ndarray, " b"]) -> Batch:
    """The validation windows with these numbers; all together, every token but the first is a target exactly once.

    Window w reads tokens w * context, ... and predicts each one's successor. Where the text ends, inputs are
    padded with token 0 and targets with -100; a number past the last window gives a row of padding.
    """
    last = len(ids) - 1
    places = windows.astype(np.int64)[:, None] * context + np.arange(context)
    real = places < last
    inputs = np.where(real, ids[places.clip(max=last)].astype(np.int64), 0)
    targets = np.where(real, ids[(places + 1).clip(max=last)].astype(np.int64), IGNORED)
    return Batch(torch.from_numpy(inputs), torch.from_numpy(targets))
