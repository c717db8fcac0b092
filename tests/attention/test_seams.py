"""Seams: the steps of a layer by name, each of which is taken when the layer runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attnlab.attention.base import HeadedAttention
from attnlab.attention.differential import DifferentialAttention
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.position import Position
from attnlab.attention.position_bias import ALiBi
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.rotary import RoPE
from attnlab.attention.score import QKNorm, Score
from attnlab.attention.seams import covered
from attnlab.attention.shared import Shared
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.attention.talking_heads import TalkingHeads
from attnlab.explain.record_calls import watched
from attnlab.explain.trace import trace

X = torch.randn(1, 5, 8)
LINKS = {"norm": QKNorm, "talk": TalkingHeads}


@pytest.mark.parametrize(
    "layer",
    [
        MultiHeadAttention(8, n_heads=2, position=ALiBi, score=LINKS),
        MultiHeadAttention(8, n_heads=2, position=RoPE, score=LINKS),
        DifferentialAttention(8, n_heads=4, position=ALiBi, score=LINKS),
        RecurrentAttention(8, n_heads=2, position=RoPE),
    ],
    ids=["alibi", "rope", "differential", "recurrent"],
)
def test_every_seam_is_taken(layer: HeadedAttention) -> None:
    """A method that is renamed, or no longer called, is missed here and not in a page that silently lacks a step."""
    seams = [(m, name) for m in layer.modules() for name in getattr(type(m), "seams", ())]
    with watched(seams) as calls:
        layer(X)
    taken = {(call.module, call.name) for call in calls}
    assert {(layer, name) for name in HeadedAttention.seams} <= taken
    if isinstance(layer, SoftmaxAttention):
        assert set(seams) == taken
    own = [call.name for call in calls if call.module is layer and call.name in HeadedAttention.seams]
    assert own == list(HeadedAttention.seams)


def test_methods_exist() -> None:
    for kind in (HeadedAttention, SoftmaxAttention, Score, Position):
        assert all(callable(getattr(kind, name)) for name in kind.seams)


@pytest.mark.parametrize("seam", MultiHeadAttention.seams)
def test_renamed_seam_loses_no_step(seam: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worked example fails where a method has another name, and does not leave its step out."""
    layer = MultiHeadAttention(8, n_heads=2, position=ALiBi, score=LINKS)
    owner = next(kind for kind in MultiHeadAttention.__mro__ if seam in vars(kind))

    class Renamed(MultiHeadAttention):
        seams = tuple(f"{name}_" if name == seam else name for name in MultiHeadAttention.seams)

    monkeypatch.setattr(Renamed, f"{seam}_", vars(owner)[seam], raising=False)
    monkeypatch.setattr(Renamed, seam, property(lambda self: self.gone), raising=False)
    layer.__class__ = Renamed
    with pytest.raises((LookupError, AttributeError), match=seam):
        trace(layer, X, Shared())


@pytest.mark.parametrize("seam", ["prepare", "apply_scores", "apply_weights"])
def test_renamed_link_loses_no_step(seam: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of the score chain, whose steps are asked for by their names."""
    layer = MultiHeadAttention(8, n_heads=2, score=LINKS)
    monkeypatch.setattr(Score, "seams", tuple(name for name in Score.seams if name != seam))
    with pytest.raises(LookupError, match=f"{seam} is no seam of"):
        trace(layer, X, Shared())


def test_other_names_are_refused() -> None:
    layer = MultiHeadAttention(8, n_heads=2)
    with pytest.raises(LookupError, match="visable is no seam of MultiHeadAttention"):
        with covered(layer, "visable", lambda method: method):
            pass


def test_covers_nest_and_end() -> None:
    layer: nn.Module = MultiHeadAttention(8, n_heads=2)
    plain = layer(X)

    def twice(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: 2 * method(*arguments)

    with covered(layer, "merge", twice), covered(layer, "merge", twice):
        torch.testing.assert_close(layer(X), 4 * plain)
    assert torch.equal(layer(X), plain) and "merge" not in vars(layer)
