"""Every variant that has a YAML, before every law."""

from functools import cache

import pytest

from attnlab.config import config_dir
from attnlab.contract import LAWS, Subject, subject_of

NAMES = sorted(file.stem for file in (config_dir() / "attention").glob("*.yaml"))
# Which laws have nothing to say about which variants: a skip that nobody expected is a failure.
SKIPPED = {
    ("fused_equals_explicit", "linear"): "does not serve",
    ("fused_equals_explicit", "gated_delta"): "does not serve",
    ("no_dead_parameter", "simple"): "nothing in this variant is trained",
}
shipped = cache(subject_of)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", NAMES)
def test_every_variant_keeps_every_law(name: str, law: str) -> None:
    subject: Subject = shipped(name)
    skipped = LAWS[law](subject)
    if skipped is None:
        assert (law, name) not in SKIPPED
    else:
        assert SKIPPED[law, name] in skipped.reason
