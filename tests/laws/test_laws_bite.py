"""Every law is failed by a variant made for it, says how, and lets the sound variants pass."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from tests.laws.mutant_cases import LINEAR, MUTANTS, PLAIN
from tests.laws.mutants import StatesFormula, Unused, subject_from
from torch import Tensor

from attnlab.attention.base import Shared
from attnlab.attention.head_wrapper import layered
from attnlab.attention.heads import Heads
from attnlab.attention.layer_sharing import FirstValues
from attnlab.attention.mask import Window
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.score import SoftCap
from attnlab.laws import LAWS, LawBroken, Subject, examine, judge
from attnlab.laws.subject import cuttings

# Seconds long, or about the words of the class: only asked where that is the point.
APART = {"every_position", "extreme_inputs", "learns", "explains_itself"}


def test_every_law_has_a_variant_that_breaks_it() -> None:
    assert {mutant.law for mutant in MUTANTS.values()} == set(LAWS)


@pytest.mark.parametrize("name", MUTANTS)
def test_law_catches_its_mutant(name: str) -> None:
    """The law made for it catches the fault and says how."""
    mutant = MUTANTS[name]
    with pytest.raises(LawBroken) as caught:
        LAWS[mutant.law](mutant.subject())
    assert mutant.message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_no_other_law_is_broken_by_a_fault(name: str) -> None:
    mutant = MUTANTS[name]
    others = [law for law in LAWS if law not in APART | mutant.also | {mutant.law}]
    broken = {v.law: v.detail for v in examine(mutant.subject(), others) if v.outcome == "broken"}
    assert broken == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if "every_position" not in mutant.also])
def test_which_laws_positions_break(name: str) -> None:
    """Positions fall only with what they run anew."""
    mutant = MUTANTS[name]
    assert (judge("every_position", mutant.subject()).outcome == "broken") == (mutant.law == "every_position")


@pytest.mark.parametrize(
    "twin",
    [
        PLAIN(),
        pytest.param(PLAIN(mask=partial(Window, 4)), marks=pytest.mark.slow),
        pytest.param(PLAIN(dropout=0.3), marks=pytest.mark.slow),
        subject_from(StatesFormula, ["position=none"]),
        pytest.param(PLAIN(score={"softcap": partial(SoftCap, cap=0.1)}), marks=pytest.mark.slow),
        subject_from(RecurrentAttention, **LINEAR),
    ],
    ids=["plain", "window", "dropout", "formula", "softcap", "linear"],
)
def test_sound_twins(twin: Subject) -> None:
    """The sound twins of the broken variants break nothing."""
    assert [v for v in examine(twin, [law for law in LAWS if law not in APART]) if v.outcome == "broken"] == []


def test_later_layer_named() -> None:
    """A fault in a later layer is found and the layer named."""
    kinds = {"sound": MultiHeadAttention, "unused": Unused}

    def mixed(d_model: int, **settings: Any) -> Any:
        heads = settings.pop("n_heads"), settings.pop("position")
        made = {k: lambda d, c=c, **s: c(d, n_heads=heads[0], position=heads[1], **s) for k, c in kinds.items()}
        return layered(d_model, pattern="sound sound unused sound", kinds=made, **settings)

    verdict = judge("no_dead_parameter", subject_from(mixed))
    assert verdict.detail == "layer 2: temperature () does not enter the output"


class ReadsBelow(MultiHeadAttention):
    """Values of the first layer are added to those of later ones."""

    def __init__(self, d_model: int, **settings: Any) -> None:
        super().__init__(d_model, **settings)
        self.traits = replace(self.traits, requires=(FirstValues,) if self.layer else ())

    def share(self, heads: Heads, shared: Shared) -> Heads:
        if self.layer == 0:
            shared.publish(FirstValues(heads.v))
            return heads
        return heads._replace(v=heads.v + shared.read(FirstValues).v)


class ReadsBelowWrongly(ReadsBelow):
    """The later layer takes the first layer's values from the wrong end."""

    def share(self, heads: Heads, shared: Shared) -> Heads:
        heads = super().share(heads, shared)
        return heads if self.layer == 0 else heads._replace(v=heads.v + 1e-3 * shared.read(FirstValues).v.flip(2))


SEAM = [law for law in LAWS if law not in APART]


def test_layers_below() -> None:
    """A layer that reads another is judged with the layers below it."""
    assert [v for v in examine(subject_from(ReadsBelow), SEAM) if v.outcome == "broken"] == []
    verdict = judge("causality", subject_from(ReadsBelowWrongly))
    assert verdict.detail.startswith("layer 1: T=2: changing the tokens from 1 on moves the output at 0 by")


class Crashes(MultiHeadAttention):
    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        raise RuntimeError("two\nlines")


def test_crash_breaks_a_law() -> None:
    """A variant that crashes under a law breaks it."""
    verdict = judge("map", subject_from(Crashes))
    assert (verdict.outcome, verdict.detail) == ("broken", "RuntimeError: two lines")
    assert verdict.statement.startswith("The map reproduces the output")


@pytest.mark.parametrize("length", [1, 2, 3, 7, 67])
def test_cuttings(length: int) -> None:
    """Cuttings cover a sequence and none comes twice."""
    cuts = cuttings(length)
    assert {sum(cut) for cut in cuts} == {length} and all(min(cut) > 0 for cut in cuts)
    assert len({tuple(cut) for cut in cuts}) == len(cuts)
