"""Positions with variants: which pairs are refused, and what the every_position law does not ask."""

import importlib
from itertools import product

import pytest
import torch
from tests.laws.cases import NAMES, sampled, shipped

from attnlab.errors import UsageError
from attnlab.laws import Subject, judge, subject_of
from attnlab.laws.sequence import stack
from attnlab.laws.subject import CONTEXT, ids, positions


def lacks_hook(subject: Subject) -> bool:
    """Whether a position needs what the class of a variant, or of a kind in a mixture, does not offer."""
    position = hooks(subject.config.position.inside["_target_"])
    config = subject.config.attention
    kinds = [config, *config.get("kinds", {}).values()]
    return any(offered and position - offered for offered in (hooks(kind["_target_"]) for kind in kinds))


def hooks(target: str) -> frozenset[str]:
    """What the class of a position asks for, or that of a variant offers; none of what builds other layers."""
    module, _, name = target.rpartition(".")
    named: frozenset[str] = getattr(getattr(importlib.import_module(module), name), "hooks", frozenset())
    return named


@pytest.mark.parametrize(("name", "position"), sampled(product(NAMES, positions()), every=80))
def test_refused_pairs(name: str, position: str) -> None:
    """One pair in 40, drawn by a hash of its names, is built always; all of them with the slow tests."""
    subject = subject_of(name, [f"position={position}"])
    if not lacks_hook(subject):
        assert len(subject.gpt(2).blocks) == 2
        return
    with pytest.raises(
        UsageError, match=r"position\.inside \(\w+\) works through (bias|widen), but \w+Attention offers only rotate"
    ):
        subject.gpt(2)


LAWS_OF_A_LAYER = (
    "shape",
    "no_dead_parameter",
    "batch_independence",
    "fused_equals_explicit",
    "half_precision",
    "cost",
)


@pytest.mark.parametrize("law", LAWS_OF_A_LAYER)
@pytest.mark.parametrize(("name", "position"), [("multi_head", "alibi"), ("sliding_window", "alibi"), ("gqa", "none")])
def test_laws_under_other_positions(name: str, position: str, law: str) -> None:
    """The other laws hold under other positions too."""
    verdict = judge(law, shipped(name, f"position={position}"))
    assert verdict.outcome != "broken", verdict.detail


@pytest.mark.parametrize("position", positions())
def test_what_a_position_trains_gets_a_gradient(position: str) -> None:
    model = stack(shipped("multi_head", f"position={position}"))
    model(ids(3, CONTEXT)).square().sum().backward()
    for name, parameter in model.embed.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).all()), name


@pytest.mark.parametrize("position", positions())
def test_position_reaches_logits(position: str) -> None:
    """One layer and the causal mask: without positions the last token cannot tell in which order the others came."""
    model = shipped("multi_head", f"position={position}").gpt(1, init="fan_in").double().eval()
    seen = torch.tensor([[3, 5, 7, 11, 13], [7, 5, 3, 11, 13]])
    with torch.no_grad():
        one, other = model(seen)[:, -1]
    # 1e-12: the same sum in another order
    assert torch.allclose(one, other, atol=1e-12, rtol=0) == (position == "none")


def test_learned_positions_end() -> None:
    """Learned positions refuse what lies beyond the context in forward and in steps."""
    model = shipped("multi_head", "position=learned").gpt(2)
    with pytest.raises(UsageError, match=f"position=learned knows {CONTEXT} positions"):
        model(ids(1, CONTEXT + 1))
    _, state = model.step(ids(1, CONTEXT), model.init_state(1, CONTEXT + 1))
    with pytest.raises(UsageError, match=f"position=learned knows {CONTEXT} positions"):
        model.step(ids(1, 1), state)
