"""The law of the stated formula, on layers whose formula is a line."""

import pytest
from tests.attention.plain_layers import Sum
from tests.laws.mutants import subject_from
from torch import Tensor

from attnlab.laws import LawBroken, Skipped
from attnlab.laws.formula import stated_formula


class Stated(Sum):
    factor = 1.0

    def formula(self, x: Tensor) -> Tensor:
        return self.factor * x.cumsum(dim=1)


class Off(Stated):
    factor = 1.001


class Narrow(Stated):
    def formula(self, x: Tensor) -> Tensor:
        return super().formula(x)[..., 1:]


def test_formula() -> None:
    """Kept where forward gives the same, broken where it is a little off or of another shape, skipped without one."""
    assert stated_formula(subject_from(Stated, ["position=none"])) is None
    assert isinstance(stated_formula(subject_from(Sum, ["position=none"])), Skipped)
    for kind, message in ((Off, r"T=1: forward differs from formula by \d"), (Narrow, r"formula gives \(3, 1, 23\)")):
        with pytest.raises(LawBroken, match=message):
            stated_formula(subject_from(kind, ["position=none"]))
