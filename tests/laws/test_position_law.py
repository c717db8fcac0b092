"""The law of positions, on layers that take none, or take one and ignore it."""

from dataclasses import replace

import pytest
from tests.attention.plain_layers import Sum
from tests.laws.mutants import subject_from
from torch import Tensor

from attnlab.attention.heads import Heads
from attnlab.errors import UsageError
from attnlab.laws import LawBroken, Skipped, Subject
from attnlab.laws.position_law import every_position


class Deaf(Sum):
    """It takes rotations, and rotates nothing."""


class Obedient(Sum):
    """It has no hook, so that every position inside is refused."""

    hooks = frozenset()


def with_names(subject: Subject, *names: str) -> Subject:
    return replace(subject, position_names=names)


def test_positions() -> None:
    """Refused by name is as good as obeyed; ignored is not."""
    assert every_position(with_names(subject_from(Obedient, ["position=none"]), "rope")) is None
    assert isinstance(every_position(with_names(subject_from(Deaf))), Skipped)
    with pytest.raises(LawBroken, match="position=rope changes nothing"):
        every_position(with_names(subject_from(Deaf, ["position=none"]), "rope"))


def test_refusal_without_name() -> None:
    """A refusal that does not say which position it is about breaks the law."""

    class Mute(Sum):
        def project(self, x: Tensor, start: int = 0, tail: Tensor | None = None) -> Heads:
            return super().project(x)

        def build_position(self, head_dim: int) -> Tensor:
            if self._slots["position"].target.hooks:
                raise UsageError("that does not go with this position")
            return super().build_position(head_dim)

    with pytest.raises(LawBroken, match="position=rope is refused without being named"):
        every_position(with_names(subject_from(Mute, ["position=none"]), "rope"))
