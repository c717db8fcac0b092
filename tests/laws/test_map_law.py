"""The law of the map, on layers whose maps are known."""

import pytest
from tests.attention.plain_layers import Mean, Sum
from tests.laws.mutants import subject_from
from torch import Tensor

from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.traits import MapKind, Traits
from attnlab.laws import LawBroken, Skipped
from attnlab.laws.backend_law import backend_equals_mix
from attnlab.laws.map_law import fused_equals_explicit, map_

NO_POSITION = ["position=none"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("probability", "misses the sum 1 by"),
        ("sub_probability", "sums to 7.000000000000, above 1"),
        ("nonnegative", ""),
        ("signed", ""),
        ("none", "but weights gives a map"),
    ],
)
def test_kind(kind: MapKind, message: str) -> None:
    """The map of a sum holds ones: it is nonnegative, and so signed, and no probability."""

    class Claims(Sum):
        traits = Traits(kind, "constant")

    subject = subject_from(Claims, NO_POSITION)
    if not message:
        return map_(subject, (1, 7))
    with pytest.raises(LawBroken, match=message):
        map_(subject, (7,))


def test_reproduces() -> None:
    """What is merged must be what the map makes of the values."""

    class Doubled(Mean):
        def mix(self, heads: Tensor) -> Tensor:
            o = super().mix(heads)
            return o if heads.v.size(-1) == heads.v.size(-2) else 2 * o

    assert map_(subject_from(Mean, NO_POSITION), (1, 7)) is None
    with pytest.raises(LawBroken, match=r"merge\(A v\) differs from forward by"):
        map_(subject_from(Doubled, NO_POSITION), (7,))


def test_fused() -> None:
    """It has nothing to say where no kernel serves, and compares where one does."""
    assert isinstance(fused_equals_explicit(subject_from(Sum, NO_POSITION)), Skipped)
    assert fused_equals_explicit(subject_from(MultiHeadAttention, NO_POSITION)) is None


def test_backend() -> None:
    """It has nothing to say of a layer that no kernel computes."""
    assert isinstance(backend_equals_mix(subject_from(Sum, NO_POSITION)), Skipped)
