"""The typed record of a run's config, made of what a file holds."""

from typing import Any

import pytest

from attnlab.config.compose import compose_config
from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError


def test_round_trip() -> None:
    """A record gives back what it was made of; a user's own keys stay."""
    content = compose_config(["attention=gqa", "seed=3"]).as_dict() | {"mine": {"a": [1]}}
    assert RunConfig.of(content).as_dict() == content


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"match": {"a": 1}}, r"match \(.*\) must be null or params \| "),
        ({"data": 5}, r"data \(5\) must hold settings by name"),
        ({"maps": [1]}, r"maps \(\[1\]\) must hold settings by name"),
        ({"trainer": {"max_steps": "many"}}, r"trainer.max_steps \(many\) must be an integer of at least 1"),
        ({"seed": None}, r"seed \(null\) must be an integer"),
        ({"model": {"d_model": 8}}, r"model: "),
    ],
)
def test_refused(change: dict[str, Any], line: str) -> None:
    """What no key may hold is refused, whatever its type, also where only a mapping hides it."""
    with pytest.raises(UsageError, match=f"^{line}"):
        RunConfig.of(compose_config().as_dict() | change)
