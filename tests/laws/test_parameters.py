"""The laws about parameters, on layers that have none, one that matters, or one that does not."""

import pytest
import torch
from tests.attention.plain_layers import Itself, Sum
from tests.laws.mutants import subject_from
from torch import Tensor, nn

from attnlab.laws import LawBroken, Skipped
from attnlab.laws.parameters import half_precision, no_dead_parameter, reproducible

NO_POSITION = ["position=none"]


class HalfRead(Itself):
    """Of a gain of 4 numbers the first two enter the output."""

    def setup(self) -> None:
        super().setup()
        self.gain = nn.Parameter(torch.ones(4))

    def mix(self, heads: Tensor) -> Tensor:
        return super().mix(heads) * self.gain[:2].sum()


class Shrinks(Sum):
    """Its memory is kept in the type of the tokens."""

    def zeros(self, *shape: int) -> Tensor:
        return self.anchor.new_zeros(shape)


def test_dead() -> None:
    """Each number is counted that gets no gradient; where nothing is trained there is nothing to ask."""
    assert no_dead_parameter(subject_from(Itself, NO_POSITION)) is None
    assert isinstance(no_dead_parameter(subject_from(Sum, NO_POSITION)), Skipped)
    with pytest.raises(LawBroken, match="gain: 2 of 4 scalars get no gradient"):
        no_dead_parameter(subject_from(HalfRead, NO_POSITION))


def test_half_precision() -> None:
    """A sum over all tokens is kept in float32, whatever the model is stored in."""
    half_precision(subject_from(Sum, NO_POSITION))
    with pytest.raises(LawBroken):
        half_precision(subject_from(Shrinks, NO_POSITION))


def test_reproducible() -> None:
    """A layer that draws outside of its seed is caught."""

    class Moody(Itself):
        draws = 0

        def mix(self, heads: Tensor) -> Tensor:
            Moody.draws += 1
            return super().mix(heads) * Moody.draws

    reproducible(subject_from(Itself, NO_POSITION))
    with pytest.raises(LawBroken, match="differs between two runs with the same seed"):
        reproducible(subject_from(Moody, NO_POSITION))
