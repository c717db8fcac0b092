"""Every variant that has a YAML, before every law."""

from functools import cache

import pytest

from attnlab.config import config_dir
from attnlab.contract import LAWS, Subject, subject_of

NAMES = sorted(file.stem for file in (config_dir() / "attention").glob("*.yaml"))
# Which laws have nothing to say about which variants: a skip that nobody expected is a failure.
UNFUSED = {
    *(
        "based",
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
    *(
        "gpt_oss",
        "identity",
        "kda",
        "lightning",
        "linear",
        "log_linear",
        "mamba2",
        "moba",
        "multi_token",
        "nsa",
        "path",
    ),
    *("performer", "relu", "retention", "selective", "sigmoid", "sink", "softcap", "softmax1", "softpick"),
    *("sparsemax", "ssmax", "stick_breaking", "synthesizer_dense", "synthesizer_random", "talking_heads", "ttt"),
    *("uniform",),
}
SKIPPED = {("fused_equals_explicit", name): "does not serve" for name in UNFUSED}
SKIPPED["no_dead_parameter", "simple"] = "nothing in this variant is trained"
# Half a minute and more together: every position is asked of one variant per family, the rest with the slow tests.
EVERY_POSITION = {"multi_head", "simple", "hybrid", "linear", "uniform", "mla", "ttt"}
shipped = cache(subject_of)


def asked() -> list[object]:
    """Every variant with every law; what takes longest is asked of all variants with the slow tests only."""
    marks = {(name, "every_position"): [pytest.mark.slow] for name in set(NAMES) - EVERY_POSITION}
    return [pytest.param(name, law, marks=marks.get((name, law), ())) for name in NAMES for law in LAWS]


@pytest.mark.parametrize(("name", "law"), asked())
def test_every_variant_keeps_every_law(name: str, law: str) -> None:
    subject: Subject = shipped(name)
    skipped = LAWS[law](subject)
    if skipped is None:
        assert (law, name) not in SKIPPED
    else:
        assert SKIPPED[law, name] in skipped.reason
