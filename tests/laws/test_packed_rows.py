"""Documents packed into one row, under every position and in what a class says of itself."""

import pytest
import torch
from tests.laws.cases import sampled, shipped
from tests.laws.mutants import subject_from

from attnlab.attention.documents import Documents
from attnlab.attention.embedding import LearnedEmbedding
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.rotary import RoPE
from attnlab.laws.packed_rows import documents
from attnlab.laws.subject import positions
from attnlab.model import GPT

IDS = torch.tensor([[0, 0, 0, 1, 2, 2], [0, 1, 1, 1, 1, 2]])


@pytest.mark.parametrize("position", sampled([(name,) for name in positions()], 4, [("learned",), ("rope",)]))
def test_every_position(position: str) -> None:
    """Positions begin again in each document."""
    documents(shipped("multi_head", f"position={position}"))


def honours(model: GPT) -> bool:
    return model.honours_documents


def test_convolution() -> None:
    """A short convolution sees nothing of the document before."""
    subject = subject_from(MultiHeadAttention, conv=4)
    assert honours(subject.gpt(1))
    documents(subject)


def test_all_documents_fast() -> None:
    """The softmax family is not taken apart, whichever its heads; a model with another layer is."""
    assert all(honours(shipped(name).gpt(2)) for name in ("mla", "sliding_window", "nsa", "conv_heads"))
    assert not honours(shipped("synthesizer_dense").gpt(1))


def test_new_method_is_asked_again() -> None:
    """A class that writes anew what sees whole rows does not inherit that it honours documents."""

    class Anew(MultiHeadAttention):
        def project(self, *args, **settings):  # type: ignore[no-untyped-def]
            return super().project(*args, **settings)

    class MixesAnew(MultiHeadAttention):
        def mix(self, heads):  # type: ignore[no-untyped-def]
            return super().mix(heads)

    class Turned(RoPE):
        def rotate(self, x, start=0):  # type: ignore[no-untyped-def]
            return super().rotate(x, start)

    class Added(LearnedEmbedding):
        def forward(self, x, start=0):  # type: ignore[no-untyped-def]
            return super().forward(x, start)

    assert [kind.documents for kind in (Anew, Turned, Added, MixesAnew)] == [False, False, False, True]
    documents(subject_from(Anew))


def test_counted() -> None:
    """Positions, starts and sameness of tokens, and the documents of like length."""
    packed = Documents(IDS)
    assert packed.positions.tolist() == [[0, 1, 2, 0, 0, 1], [0, 0, 1, 2, 3, 0]]
    assert packed.starts.tolist() == [[p == 0 for p in row] for row in packed.positions.tolist()]
    assert packed.same[0].long().sum(dim=1).tolist() == [3, 3, 3, 1, 2, 2]
    assert packed.spans == [(0, 3), (3, 1), (4, 2), (6, 1), (7, 4), (11, 1)]


@pytest.mark.parametrize("few", [1, 16])
def test_apart_and_together(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken apart is put together again, each document in one batch, filled up with its last token."""
    monkeypatch.setattr("attnlab.attention.documents.FEW", few)
    packed, x = Documents(IDS), torch.arange(48.0).view(2, 2, 6, 2)
    parts = packed.apart(x, 2)
    assert len(parts) == (1 if few == 16 else 3)
    assert torch.equal(packed.together(parts, 2), x)
    shown = [part[:, 0, :, 0].tolist() for part in parts]
    assert shown[0][0] == [26.0, 28.0, 30.0, 32.0] + [32.0, 32.0] * (few == 16) and (
        few == 16 or shown[0][1] == [0.0, 2.0, 4.0, 4.0]
    )
