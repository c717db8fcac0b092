"""Every variant that has a YAML, before every law.

What takes up to a tenth of a second is asked of all of them always. Of the laws in `ONE_IN` a share of the variants is
asked always, drawn by a hash of the variant's and the law's name, and the others with the slow tests; causality and
decoding of all variants are asked always by test_fuzz.py.
"""

import pytest
from tests.laws.cases import NAMES, drawn, shipped

from attnlab.laws import LAWS

# Which laws have nothing to say about which variants: a skip that nobody expected is a failure.
UNFUSED = {
    *(
        "based",
        "cog",
        "cope",
        "delta_net",
        "delta_product",
        "differential",
        "dsa",
        "entmax",
        "fox",
        "gated_delta",
        "gemma2",
        "gla",
    ),
    *("gpt_oss", "identity", "jamba", "kda", "lightning", "linear", "log_linear", "mamba2", "moba", "multi_token"),
    *("nsa", "path", "performer", "relu", "retention", "rwkv7", "selective", "sigmoid", "sink", "softcap", "softmax1"),
    "softpick",
    *("sparsemax", "ssmax", "stick_breaking", "synthesizer_dense", "synthesizer_random", "talking_heads", "ttt"),
    *("uniform",),
}
SKIPPED = {("fused_equals_explicit", name): "does not serve" for name in UNFUSED}
SKIPPED["no_dead_parameter", "simple"] = "nothing in this variant is trained"
ONE_IN = {
    "causality": 9,
    "decode": 9,
    "cost": 9,
    "half_precision": 5,
    "extreme_inputs": 25,
    "learns": 15,
    "every_position": 50,
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
    if skipped is None:
        assert (law, name) not in SKIPPED
    else:
        assert SKIPPED[law, name] in skipped.reason
