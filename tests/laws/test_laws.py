"""Every variant that has a YAML, before every law.

What takes up to a tenth of a second is asked of all of them always. Of the laws in `ONE_IN` a share of the variants is
asked always, drawn by a hash of the variant's and the law's name, and the others with the slow tests. Everything is
asked of a variant whose YAML the last commit changes.
"""

from unittest.mock import patch

import pytest
import torch.nn.functional as F
from tests.laws.cases import NAMES, drawn, shipped

from attnlab.attention.base import HeadedAttention
from attnlab.attention.flex import flex_refusal
from attnlab.laws import LAWS
from attnlab.laws.subject import ids
from attnlab.model import GPT

ONE_IN = {
    "shape": 3,
    "map": 3,
    "fused_equals_explicit": 3,
    "batch_independence": 4,
    "reproducible": 4,
    "causality": 9,
    "decode": 9,
    "documents": 15,
    "cost": 9,
    "backend_equals_mix": 40,  # what it needs takes seconds to import
    "half_precision": 9,
    "extreme_inputs": 25,
    "learns": 30,
    "every_position": 300,
}


def asked() -> list[object]:
    """Every variant with every law; see above for which of them are slow tests."""
    laws = [law for law in LAWS if law != "stated_formula"]  # of ours, oracles and the lattice take its part
    every = {(name, law): ONE_IN.get(law, 1) for name in NAMES for law in laws}
    return [
        pytest.param(*case, marks=[] if drawn(case, one_in) else [pytest.mark.slow]) for case, one_in in every.items()
    ]


@pytest.mark.parametrize(("name", "law"), asked())
def test_every_variant_keeps_every_law(name: str, law: str) -> None:
    skipped = LAWS[law](shipped(name))
    assert (skipped is not None) == has_nothing_to_say(law, name)


def has_nothing_to_say(law: str, name: str) -> bool:
    """Whether a law does not apply, by what the layers do: a skip that nobody expected is a failure."""
    if law not in ("no_dead_parameter", "fused_equals_explicit", "backend_equals_mix"):
        return False
    model = shipped(name).gpt(shipped(name).depth)
    if law == "backend_equals_mix":
        return all(flex_refusal(m) for m in model.modules() if isinstance(m, HeadedAttention))
    if law == "fused_equals_explicit":
        return not calls_kernel(model)
    return not any(p.requires_grad for layer in model.layers for p in layer.attention.parameters())


def calls_kernel(model: GPT) -> bool:
    """Whether the fused kernel is asked for anything in a forward pass."""
    with patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as kernel:
        model(ids(1, 3))
    return kernel.called


def test_kernel_is_asked() -> None:
    """The softmax of plain attention is the kernel's; that of another normaliser is written out."""
    assert calls_kernel(shipped("multi_head").gpt(1)) and not calls_kernel(shipped("sigmoid").gpt(1))
