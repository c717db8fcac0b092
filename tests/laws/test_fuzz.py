"""Causality and decoding of every variant over shapes, options and cuts that nobody chose by hand."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from tests.laws.cases import NAMES, ONE_OF_EACH, sampled, shipped

from attnlab.build import attention_factory
from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError
from attnlab.laws.layer_in_stack import LayerInStack
from attnlab.laws.subject import SAME, UNTOUCHED, gap, perturbed, positions
from attnlab.model import generator_for

LONGEST = {"ordinary": 19, "slow": 80}

few, some, share = st.integers(1, 3), st.integers(1, 9), st.floats(0.1, 2.0)
maybe = st.none() | st.integers(1, 6)
# What each option of a YAML may be, wherever it stands; small, so that rings wrap and chunks end within a few tokens.
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    # heads and projections
    "n_kv_heads": st.none() | st.integers(1, 4),
    "n_key_heads": st.none() | st.integers(1, 4),
    "head_dim": st.none() | st.sampled_from([2, 4, 6, 3]),
    "value_dim": st.none() | st.sampled_from([2, 4, 6, 3]),
    "conv": st.sampled_from([0, 2, 3, 5]),
    "conv_bias": st.booleans(),
    "qkv_bias": st.booleans(),
    "out_bias": st.booleans(),
    "kv_rank": maybe,
    "q_rank": st.integers(1, 6),
    "k_rank": few,
    "v_rank": few,
    "rope_dim": st.sampled_from([None, 0, 2, 4]),
    "conv_kind": st.sampled_from(["silu", "canon"]),
    "groups": few,
    "tied": st.booleans(),
    "makers": maybe,
    "channels": some,
    # which keys are read
    "window": some,
    "sinks": few,
    "stride": some,
    "dilation": few,
    "every": st.integers(1, 5),
    "block": st.integers(1, 6),
    "topk": few,
    "topn": few,
    "index_heads": few,
    "index_dim": st.integers(1, 5),
    # scores
    "temperature": share,
    "cap": share,
    "start": share,
    "p_max": some,
    "rank": st.integers(1, 5),
    "queries": st.integers(1, 4),
    "keys": st.integers(1, 5),
    "alpha": st.floats(1.1, 2.0),
    "over": st.sampled_from(["head", "all"]),
    "width": st.integers(1, 4),
    "extent": some,
    "floor": st.floats(0.5, 9.0),
    # memories
    "chunk": some,
    "writes": few,
    "beta_max": share,
    "features": some,
    "minibatch": some,
    "rate": share,
    "slots": maybe,
    "turning": st.sampled_from([0, 0.5, 1.0]),
    "steps": st.integers(1, 30),
    "input_bias": st.floats(-3.0, 3.0),
    "range": st.floats(1.1, 2.0),
    "correction": share,
    # positions
    "base": st.floats(2.0, 1e5),
    "fraction": st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    "factor": st.floats(1.0, 9.0),
    "original_context": st.integers(2, 99),
    "low_freq_factor": st.floats(0.5, 2.0),
    "high_freq_factor": st.floats(2.5, 9.0),
    "beta_fast": st.floats(8.0, 32.0),
    "beta_slow": st.floats(0.5, 4.0),
    "n_buckets": st.integers(1, 8),
    "max_distance": st.integers(2, 40),
    "hidden": few,
    "gamma": st.floats(0.1, 2.0),
    "scale": st.floats(8.0, 999.0),
}
# Options that are not drawn: the class, who reads later tokens, the order of kinds, what evaluation ignores.
LEFT_ALONE = {"_target_", "_partial_", "n_heads", "causal", "pattern", "dropout"}


@cache
def places() -> dict[str, dict[str, Any]]:
    """What attention.position holds under each position=NAME."""
    return {name: shipped("multi_head", f"position={name}").config.position.inside for name in positions()}


def holders(node: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every group of settings in a config, outermost first."""
    assert isinstance(node, dict)
    yield node
    for value in list(node.values()):
        if isinstance(value, dict):
            yield from holders(value)


class Case(NamedTuple):
    """A variant with its options, the shape of what it is given, where a second input departs, and a cut into steps."""

    config: RunConfig
    d_model: int
    layer: int
    n_layers: int
    context: int
    batch: int
    departs: int
    cut: list[int]


@st.composite
def cases(draw: st.DrawFn, config: RunConfig, insides: dict[str, dict[str, Any]], longest: int) -> Case:
    """Any case of a variant, legal or not; nothing is built yet."""
    config = deepcopy(config)
    usual, n_heads = config.model.n_heads, draw(st.sampled_from([4, 2, 1, 3, 6]), "n_heads")
    place = draw(st.sampled_from(["rope", *insides]), "position")
    rope = config.position.inside
    for group in holders(config.attention):
        if group.get("n_heads") == usual:
            group["n_heads"] = n_heads
        if group.get("position") == rope:
            group["position"] = deepcopy(insides[place])
        for option, value in group.items():
            if not isinstance(value, dict) and option not in LEFT_ALONE:
                group[option] = draw(st.just(value) | OPTIONS[option], option)
    length = draw(st.integers(1, longest), "length")
    n_layers = len(str(config.attention.get("pattern", "")).split()) or 2
    ends = draw(st.sets(st.integers(1, length - 1)), "cuts") if length > 1 else set()
    edges = [0, *sorted(ends), length]
    return Case(
        config=config,
        d_model=n_heads * draw(st.sampled_from([4, 6, 2, 3]), "width"),
        layer=draw(st.integers(0, n_layers - 1), "layer"),
        n_layers=n_layers,
        context=length + draw(st.integers(0, 2), "room"),
        batch=draw(st.integers(1, 3), "batch"),
        departs=draw(st.integers(0, length - 1), "departs"),
        cut=[b - a for a, b in pairwise(edges)],
    )


def built(case: Case) -> LayerInStack:
    """The layer of a case, off its initial values, with the layers that it reads."""
    make = attention_factory(case.config)
    layers = [
        make(case.d_model, layer=i, n_layers=case.n_layers, context=case.context).double()
        for i in range(case.layer + 1)
    ]
    for i, layer in enumerate(layers):
        perturbed(layer, seed=i)
    return LayerInStack(layers[-1], layers[:-1] if layers[-1].traits.requires else [], "").eval()


@torch.no_grad()
def is_causal_and_cut_at_will(case: Case) -> None:
    """Outputs before a change of the input stay, and decoding in any pieces gives what the whole sequence gives."""
    try:
        layer = built(case)
    except UsageError:
        assume(False)
    length = sum(case.cut)
    x = 0.5 * torch.randn(case.batch, length, case.d_model, generator=generator_for(0, "fuzz"), dtype=torch.float64)
    other, usual = torch.cat([x[:, : case.departs], 3 * x[:, case.departs :].flip(-1)], dim=1), layer(x)
    assert gap(layer(other)[:, : case.departs], usual[:, : case.departs]) <= UNTOUCHED, "not causal"
    assert gap(layer.decode(x, case.cut, max_len=length), usual) <= SAME, "decodes to something else"


def fuzz(config: RunConfig, examples: int, longest: int) -> None:
    """Ask `examples` cases of a variant, always the same ones."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(cases(config, places(), longest))
    def every_case(case: Case) -> None:
        is_causal_and_cut_at_will(case)

    every_case()


@pytest.mark.parametrize("name", sampled([(name,) for name in NAMES], 3, [(name,) for name in ONE_OF_EACH]))
def test_any_shape_any_options_any_cut(name: str) -> None:
    fuzz(shipped(name).config, 5, LONGEST["ordinary"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_cases(name: str) -> None:
    fuzz(shipped(name).config, 200, LONGEST["slow"])


@pytest.mark.parametrize("name", NAMES)
def test_no_option_of_a_variant_is_forgotten(name: str) -> None:
    groups = list(holders(shipped(name).config.attention))
    options = {o for group in groups for o, value in group.items() if not isinstance(value, dict)}
    assert options <= set(OPTIONS) | LEFT_ALONE


# Faults that the fuzz must find.


BROKEN = {
    "mask off by one": ("multi_head", "mask", "tests.laws.mutants.OffByOneMask", "not causal"),
    "leak after the map": ("multi_head", "", "tests.laws.mutants.LeakAfterTheMap", "not causal"),
    "leak in odd chunks": ("linear", "", "tests.laws.mutants.LeaksInOddChunks", "not causal|something else"),
    "forgotten offset": ("multi_head", "", "tests.laws.mutants.ForgetsOffset", "something else"),
    "short ring": ("sliding_window", "mask", "tests.laws.mutants.DropsARow", "something else"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_eighty_cases_find_a_fault(fault: str) -> None:
    name, slot, target, words = BROKEN[fault]
    config = replace(deepcopy(shipped(name).config), allow_targets=["tests"])
    node = config.attention[slot] if slot else config.attention
    node["_target_"] = target
    with pytest.raises(AssertionError, match=words):
        fuzz(config, 80, LONGEST["ordinary"])
