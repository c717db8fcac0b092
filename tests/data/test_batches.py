"""Which tokens make which batch, and how a validation loss is counted."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.data.batches import (
    IGNORED,
    Batch,
    TokenSplits,
    load_splits,
    n_windows,
    train_batch,
    unigram_entropy,
    validation_batch,
)
from attnlab.data.corpus import Corpus
from attnlab.data.tokenizers import ByteTokenizer, CharTokenizer, RankTokenizer, Tokenizer
from attnlab.data.vocabularies import PATTERN, train_bpe
from attnlab.errors import UsageError

steady = settings(deadline=None, derandomize=True)  # the same examples on every machine, however slow

IDS = np.arange(100, dtype=np.uint16)  # each token says where it stands
STORY = "The café opens. The journey starts with one step; one more step, and one more.\n"
CORPUS = Corpus.from_bytes("mine", ("é" + STORY * 30).encode(), 0.21, source="here")
TOKENIZERS: dict[str, Tokenizer] = {
    "byte": ByteTokenizer(),
    "char": CharTokenizer("char", [c.encode() for c in set("é" + STORY)]),
    "bpe": RankTokenizer("bpe", train_bpe(STORY * 30, 300), pattern=PATTERN),
}


def batch(**options: Any) -> Batch:
    usual = {"ids": IDS, "corpus_sha256": "ab", "seed": 0, "step": 0, "batch_size": 12, "context": 7}
    return train_batch(**{**usual, **options})


def splits(train: list[int] | None = None, val: list[int] | None = None) -> TokenSplits:
    made = (np.array(ids or [0, 1, 2, 1, 0], dtype=np.uint16) for ids in (train, val))
    return TokenSplits(*made, n_vocab=3, corpus_sha256="ab", scored_bytes=4)


# Training batches


def test_targets_are_one_token_later() -> None:
    """A batch is windows and the same windows one token later."""
    inputs, targets, *_ = batch()
    assert inputs.shape == targets.shape == (12, 7) and inputs.dtype == targets.dtype == torch.int64
    assert inputs.is_contiguous() and targets.is_contiguous()
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(7)) and torch.equal(targets, inputs + 1)


def test_batch_is_a_function() -> None:
    """A batch depends on corpus seed and step and on nothing else."""
    np.random.default_rng(3).random()
    torch.manual_seed(5)
    first = batch(seed=3, step=8)
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(first[:2], batch(seed=3, step=8)[:2], strict=True))
    others = [
        batch(seed=4, step=8),
        batch(seed=3, step=9),
        batch(seed=3, step=8, corpus_sha256="ac"),
        batch(seed=8, step=3),
    ]
    for other in others:
        assert not torch.equal(first[0], other[0])


def test_batches_stay_the_same() -> None:
    """A run that is continued after an update must see what it would have seen.

    The places were also computed from the definition of Philox 4x64-10, without numpy.
    """
    assert batch()[0][:, 0].tolist() == [59, 49, 32, 8, 24, 61, 86, 68, 47, 25, 8, 58]
    later = batch(seed=7, step=1000, corpus_sha256="f" * 64)
    assert later[0][:, 0].tolist() == [27, 52, 30, 3, 34, 3, 10, 66, 87, 38, 34, 89]


def test_a_longer_batch_begins_like_a_shorter_one() -> None:
    assert torch.equal(batch(batch_size=20)[0][:12], batch()[0])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_ranks_share_a_batch(world_size: int) -> None:
    """Ranks take turns and together hold the batch of one process."""
    inputs, targets, *_ = batch(step=5)
    for rank in range(world_size):
        part = batch(step=5, rank=rank, world_size=world_size)
        assert torch.equal(part[0], inputs[rank::world_size]) and torch.equal(part[1], targets[rank::world_size])
        assert len(part[0]) == 12 // world_size


@pytest.mark.parametrize("context", [1, 7, 94, 99])
def test_places_are_uniform(context: int) -> None:
    """Every place is visited equally often and none runs over the end."""
    places = 100 - context
    counts = Counter(batch(context=context, batch_size=200 * places)[0][:, 0].tolist())
    assert set(counts) == set(range(places))
    # A count of 200 has a spread of sqrt(200); five of these are not seen among a hundred.
    assert all(abs(count - 200) < 5 * 200**0.5 for count in counts.values())


def test_context_too_long() -> None:
    """A context that no window can fill is refused."""
    made = splits(train=[0, 1, 2, 0, 1])
    made.check_context(4)
    for context in (5, 6, 1000):
        with pytest.raises(UsageError) as error:
            made.check_context(context)
        assert str(error.value) == (
            f"model.context ({context}) is too long for this data: its training text is 5 tokens, so model.context "
            "must be at most 4; or give more text with data= or data.path="
        )
    with pytest.raises(UsageError, match=r"^model\.context \(0\) must be at least 1$"):
        made.check_context(0)


# Validation


def seen(n: int, context: int, rows: int) -> list[Batch]:
    ids, count = np.arange(n, dtype=np.uint16), n_windows(n, context)
    return [
        validation_batch(ids, context=context, windows=np.arange(first, min(first + rows, count)))
        for first in range(0, count, rows)
    ]


@steady
@given(n=st.integers(2, 60), context=st.integers(1, 70), rows=st.integers(1, 5))
def test_each_token_is_predicted_once(n: int, context: int, rows: int) -> None:
    """Every token but the first is predicted once from those before it in its window."""
    found: list[int] = []
    for inputs, targets, *_ in seen(n, context, rows):
        real = targets != IGNORED
        assert torch.equal(inputs[real] + 1, targets[real])  # the token before each target stands in the input
        for row, kept in zip(inputs, real, strict=True):
            assert row[kept].tolist() == list(range(int(row[0]), int(row[0]) + int(kept.sum())))
            assert not kept[int(kept.sum()) :].any() and not row[~kept].any()  # padding is at the right, token 0
            assert int(row[0]) % context == 0
        found += targets[real].tolist()
    assert found == list(range(1, n))


@pytest.mark.parametrize(
    ("n", "context", "windows"), [(2, 1, 1), (2, 9, 1), (9, 4, 2), (10, 4, 3), (13, 4, 3), (14, 4, 4), (5, 4, 1)]
)
def test_windows_are_counted_by_what_they_predict(n: int, context: int, windows: int) -> None:
    assert n_windows(n, context) == windows


def test_padding_past_the_end() -> None:
    """A number past the last window is a row of padding."""
    inputs, targets, *_ = validation_batch(IDS[:9], context=4, windows=np.array([1, 2, 70]))
    assert inputs.tolist() == [[4, 5, 6, 7], [0] * 4, [0] * 4]
    assert targets.tolist() == [[5, 6, 7, 8], [IGNORED] * 4, [IGNORED] * 4]


@pytest.mark.parametrize("context", [1, 3, 10, 64])
def test_padding_scores_nothing(context: int) -> None:
    """A model that looks at one token only has the same total loss however the text is cut and padded."""
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(40, 40, dtype=torch.float64, generator=draw)
    ids = torch.randint(40, (47,), generator=draw)
    whole = F.cross_entropy(table[ids[:-1]], ids[1:], reduction="sum")
    windows = np.arange(n_windows(47, context) + 3)
    inputs, targets, *_ = validation_batch(ids.numpy().astype(np.uint16), context=context, windows=windows)
    logits = table[inputs].flatten(0, 1)
    total = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=0)
    assert int((targets != IGNORED).sum()) == 46


def test_validation_too_short() -> None:
    """A validation text with nothing to predict is refused."""
    for val in ([1], []):
        with pytest.raises(UsageError) as error:
            TokenSplits(IDS, np.array(val, dtype=np.uint16), n_vocab=3, corpus_sha256="ab", scored_bytes=4)
        assert str(error.value) == (
            f"the validation text is {len(val)} token(s) long, so there is nothing to predict: raise data.val_fraction "
            "or give more text"
        )


# What a loss means


def test_the_entropy_of_single_tokens_by_hand() -> None:
    # Counts 2, 1, 0 and one more of each: 3/6, 2/6, 1/6. The first validation token is not predicted.
    made = splits(train=[0, 0, 1], val=[1, 0, 2])
    expected = -(math.log(3 / 6) + math.log(1 / 6)) / 2
    assert made.unigram_entropy() == pytest.approx(expected, rel=1e-12)
    assert unigram_entropy(IDS[:0], IDS[:5], 100) == pytest.approx(math.log(100), rel=1e-12)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_scored_bytes(name: str, tmp_path: Path) -> None:
    """Scored bytes are those of the predicted tokens."""
    tokenizer = TOKENIZERS[name]
    made = load_splits(CORPUS, tokenizer, tmp_path)
    assert made.scored_bytes == sum(len(tokenizer.token_bytes(int(i))) for i in made.val[1:])
    assert made.scored_bytes + len(tokenizer.token_bytes(int(made.val[0]))) == len(CORPUS.val)


def test_first_character_is_left_out(tmp_path: Path) -> None:
    """A first character of several bytes is left out whole."""
    corpus = Corpus("mine", b"abc", "é12".encode(), "0" * 64)
    assert (
        load_splits(
            corpus, CharTokenizer("char", ["é".encode(), *(c.encode() for c in "abc12")]), tmp_path
        ).scored_bytes
        == 2
    )
    assert load_splits(corpus, TOKENIZERS["byte"], tmp_path).scored_bytes == 3


def test_blind_guess_is_eight_bits(tmp_path: Path) -> None:
    """Guessing bytes blindly costs eight bits per byte."""
    made = load_splits(CORPUS, TOKENIZERS["byte"], tmp_path)
    windows = np.arange(n_windows(len(made.val), 32))
    _, targets, *_ = validation_batch(made.val, context=32, windows=windows)
    logits = torch.zeros(targets.numel(), 256, dtype=torch.float64)
    nats = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
    assert float(nats) / math.log(2) / made.scored_bytes == pytest.approx(8, rel=1e-12)


# Tokenising


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenised_parts_spell_the_corpus(name: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name]
    made = load_splits(CORPUS, tokenizer, tmp_path)
    assert tokenizer.decode_bytes(made.train) == CORPUS.train and tokenizer.decode_bytes(made.val) == CORPUS.val
    assert made.train.tolist() == tokenizer.encode(CORPUS.train.decode())
    assert made.train.dtype == made.val.dtype == np.uint16
    assert (made.n_vocab, made.corpus_sha256) == (tokenizer.n_vocab, CORPUS.sha256)


def test_a_large_vocabulary_gets_larger_numbers(tmp_path: Path) -> None:
    tokens = [c.encode() for c in map(chr, range(0x4E00, 0x4E00 + 20_000))]
    tokens += [c.encode() for c in map(chr, range(0xAC00, 0xAC00 + 11_000))]
    tokens += [c.encode() for c in map(chr, range(0x20000, 0x20000 + 40_000))]
    made = load_splits(Corpus("mine", "一丁".encode(), "𠀀𩰿".encode(), "0"), CharTokenizer("char", tokens), tmp_path)
    assert made.n_vocab == 71_000 and made.val.dtype == np.uint32 and made.val.tolist() == [31_000, 70_999]
    again = load_splits(Corpus("mine", "一丁".encode(), "𠀀𩰿".encode(), "0"), CharTokenizer("char", tokens), tmp_path)
    assert again.val.dtype == np.uint32 and again.val.tolist() == made.val.tolist()


def never(*args: Any) -> np.ndarray:
    raise AssertionError("this was tokenised before")


def test_ids_are_kept_for_each_text_and_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_splits(CORPUS, TOKENIZERS["bpe"], tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == 1
    load_splits(CORPUS, TOKENIZERS["byte"], tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == 2
    monkeypatch.setattr(RankTokenizer, "_encode", never)
    again = load_splits(CORPUS, TOKENIZERS["bpe"], tmp_path)
    assert np.array_equal(first.train, again.train) and np.array_equal(first.val, again.val)
    with pytest.raises(AssertionError, match="tokenised before"):
        load_splits(CORPUS, RankTokenizer("bpe", TOKENIZERS["bpe"].tokens[:290], pattern=PATTERN), tmp_path)


def check_rebuilt(path: Path, bad: bytes, folder: Path, expected: TokenSplits) -> None:
    good = path.read_bytes()
    path.write_bytes(bad)
    made = load_splits(CORPUS, TOKENIZERS["bpe"], folder)
    assert np.array_equal(made.train, expected.train) and np.array_equal(made.val, expected.val)
    assert path.read_bytes() == good


def test_a_damaged_file_of_ids_is_made_again(tmp_path: Path) -> None:
    expected = load_splits(CORPUS, TOKENIZERS["bpe"], tmp_path)
    path, other = sorted(tmp_path.rglob("*.ids"))
    good = path.read_bytes()
    swapped = np.frombuffer(good, np.uint16)[::-1].tobytes()
    for bad in (
        b"",
        b"\0",
        good[:-2],
        good[:-1],
        good + b"\1\0",
        b"\xff" * len(good),
        other.read_bytes(),
        swapped,
        b"PK\3\4" * 9,
    ):
        check_rebuilt(path, bad, tmp_path, expected)
    for bit in range(0, 8 * len(good), 8 * len(good) // 100):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        check_rebuilt(path, bytes(flipped), tmp_path, expected)
