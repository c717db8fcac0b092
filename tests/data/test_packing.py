"""Which documents make which row, where they end, and what is asked of them."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnlab.data.batches import IGNORED, Batch, TokenSplits, load_splits
from attnlab.data.corpus import Corpus
from attnlab.data.packing import Excerpt, PackedDocuments, Pieces, ends_of, pack, packed
from attnlab.data.text import Order
from attnlab.data.text_files import File
from attnlab.data.tokenizers import ByteTokenizer
from attnlab.errors import UsageError

BYTES = ByteTokenizer()
ENDS = np.array([5, 6, 20, 22, 31])  # of documents with 4, no, 13, 1 and 8 inputs
IDS = np.arange(31, dtype=np.uint16)  # each token says where it stands
FIRSTS = {0, 5, 6, 20, 22}


def dataset(order: Order = "random") -> PackedDocuments:
    splits = TokenSplits(IDS, IDS, 256, "ab", 30, train_ends=ENDS, val_ends=ENDS, order=order)
    return packed(splits, BYTES, None)


def batch(**options: Any) -> Batch:
    return dataset().train_batch(**{"seed": 0, "step": 0, "batch_size": 4, "context": 6, **options})


def documents(rows: Batch) -> list[Tensor]:
    """The inputs of each document of each row."""
    assert rows.documents is not None
    pairs = zip(rows.ids, rows.documents, strict=True)
    return [ids[own == number] for ids, own in pairs for number in own.unique()]


def test_pieces() -> None:
    """A document's last token is no input, and a long document is cut."""
    pieces = Pieces.of(ENDS, 4)
    assert len(pieces) == 8 and pieces.n_tokens == 26
    assert [tuple(p) for p in pieces.take(np.arange(8))] == [
        (0, 4), (6, 4), (10, 4), (14, 4), (18, 1), (20, 1), (22, 4), (26, 4),
    ]  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.integers(1, 9), max_size=30), st.none() | st.integers(1, 4))
def test_packed_once(lengths: list[int], n_rows: int | None) -> None:
    """Every piece stands in one row or is left over, and no row is too long; one left over fits nowhere."""
    rows, left = pack([Excerpt(i, n) for i, n in enumerate(lengths)], 9, n_rows)
    assert Counter(p.start for p in [*left, *(p for row in rows for p in row)]) == Counter(range(len(lengths)))
    rooms = [9 - sum(p.length for p in row) for row in rows]
    assert all(room >= 0 for room in rooms) and all(p.length > max(rooms) for p in left)
    assert n_rows is not None or not left


def test_nothing_asked_across_a_border() -> None:
    """Targets are the tokens after, of the same document; each document of a row stands in one stretch, numbered."""
    for step in range(6):
        rows = batch(step=step)
        assert torch.equal(rows.targets, rows.ids + 1) and not FIRSTS & set(rows.targets.flatten().tolist())
        assert rows.documents is not None
        assert rows.documents[:, 0].eq(0).all() and set(rows.documents.diff(dim=1).unique().tolist()) <= {0, 1}
        assert all(torch.equal(own, torch.arange(int(own[0]), int(own[0]) + len(own))) for own in documents(rows))


def test_rows_are_full_of_whole_documents() -> None:
    """No training row is padded, and at most one document of a row is there in part."""
    whole = {tuple(p) for p in Pieces.of(ENDS, 6).take(np.arange(len(Pieces.of(ENDS, 6))))}
    for step in range(6):
        rows = batch(step=step)
        assert (rows.targets != IGNORED).all()
        parts = [(int(own[0]), len(own)) for own in documents(rows)]
        assert sum(part not in whole for part in parts) <= 4 and {start for start, _ in parts} <= {s for s, _ in whole}


def test_every_piece_is_drawn_alike() -> None:
    """Each piece comes about as often as another: those for which there was no room are few in a large batch."""
    counts = Counter(int(own[0]) for step in range(40) for own in documents(batch(step=step, batch_size=32)))
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_epochs() -> None:
    """In the order of epochs nearly every piece comes once an epoch."""
    rows = dataset("epoch")
    batches = [rows.train_batch(seed=0, step=step, batch_size=13, context=6) for step in range(10)]
    counts = Counter(int(own[0]) for each in batches for own in documents(each))
    assert rows.epochs(130, 6) == 30 and set(counts) == {p.start for p in Pieces.of(ENDS, 6).take(np.arange(7))}
    assert all(25 <= count <= 36 for count in counts.values())


def test_batch_is_a_function_of_seed_and_step() -> None:
    """The same at each call, another for another seed or step, and shared out by ranks."""
    one, ranks = batch(), [batch(rank=rank, world_size=2) for rank in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(one, batch(), strict=True) if a is not None and b is not None)
    assert not torch.equal(one.ids, batch(seed=1).ids) and not torch.equal(one.ids, batch(step=1).ids)
    assert torch.equal(torch.stack([rank.ids for rank in ranks], dim=1).flatten(0, 1), one.ids)


@pytest.mark.parametrize("context", [1, 4, 6, 40])
def test_validation_asks_once(context: int) -> None:
    """Every token but the first of each document is a target once; rows beyond the last ask nothing."""
    packed_rows = dataset()
    rows = packed_rows.val_batch(np.arange(packed_rows.n_val_rows(context) + 2), context=context)
    assert Counter(rows.targets[rows.targets != IGNORED].tolist()) == Counter(set(range(31)) - FIRSTS)
    asked = rows.targets != IGNORED
    assert torch.equal(rows.targets[asked], rows.ids[asked] + 1) and not rows.ids[~asked].any()
    assert packed_rows.scored_bytes == 26


TEXT = "One. Two.\n\nThree, four.\n\n\nFive.\n\n" * 20


@pytest.mark.parametrize("stretch", [7, 100, 1 << 20])
def test_separator(stretch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document ends behind its separator, wherever the text is cut to look for it."""
    monkeypatch.setattr("attnlab.data.packing.STRETCH", stretch)
    ids = BYTES.encode_array(TEXT)
    ends = ends_of(ids, BYTES, r"\n\n+")
    parts = [TEXT[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    assert parts == ["One. Two.\n\n", "Three, four.\n\n\n", "Five.\n\n"] * 20
    assert np.array_equal(ends_of(ids, BYTES, "(?=Five)"), [*range(26, len(TEXT), 33), len(TEXT)])


@pytest.mark.parametrize("ends", [ENDS, np.array([5, 5, 6, 20, 22, 31, 31])])
def test_guessing(ends: np.ndarray) -> None:
    """The loss of guessing is that of the tokens that are asked, and so are the bytes: no document's first one."""
    ids = np.array([3, 1, 1, 3, 3, 3, 2, *[1] * 13, 2, 3, 2, *[1] * 8], dtype=np.uint16)
    rows = packed(TokenSplits(ids, ids, 4, "ab", 30, train_ends=ends, val_ends=ends), BYTES, None)
    asked = np.delete(ids, sorted(FIRSTS))
    surprise = -np.log((np.bincount(ids, minlength=4) + 1) / (len(ids) + 4))
    assert rows.baseline_loss(6) == pytest.approx(surprise[asked].mean(), rel=1e-12)
    assert rows.scored_bytes == len(asked)


def test_another_text_by_its_borders(tmp_path: Any) -> None:
    """With borders it is another corpus, and judged by another text."""
    splits = load_splits(Corpus.from_bytes("mine", TEXT.encode(), 0.3, source="here"), BYTES, tmp_path, keep=False)
    one, two = (packed(splits, BYTES, separator) for separator in (r"\n\n+", r"\n\n\n"))
    assert len({splits.sha256, one.sha256, two.sha256}) == len({splits.val_sha256, one.val_sha256, two.val_sha256}) == 3
    assert one.scored_bytes == len(TEXT) - len(splits.train) - len(one.val_ends)


def test_refusals() -> None:
    """One text without a separator, documents of nothing, and separators that are none."""
    splits = TokenSplits(IDS, IDS, 256, "ab", None)
    with pytest.raises(UsageError, match=r"^data.documents \(true\) needs documents.*data.separator"):
        packed(splits, BYTES, None)
    with pytest.raises(UsageError, match="no document of the training text has two tokens"):
        packed(splits, BYTES, ".|\n")
    for separator, problem in (("(", "must be a regular expression"), ("x*", "must not match a text of nothing")):
        with pytest.raises(UsageError, match=rf"^data.separator .*{problem}"):
            File("mine.txt", documents=True, separator=separator)
