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
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.attention.talking_heads import TalkingHeads
from attnlab.explain.record_calls import watched

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
