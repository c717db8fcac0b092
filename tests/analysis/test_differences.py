"""In which settings and conditions arms differ."""

from dataclasses import replace
from typing import Any

import pytest
from tests.analysis.in_memory import make_arm

from attnlab.analysis.arms import Arm
from attnlab.analysis.compare_arms import compare
from attnlab.analysis.comparison import Rules
from attnlab.analysis.differences import (
    beside_the_variants,
    settings_that_differ,
    unequal_conditions,
    unnamed_differences,
)
from attnlab.analysis.report.document import Table

RULES = Rules(True, 0.05, None)
SETTINGS = {"attention._target_": "MultiHead", "model.dropout": 0.0, "optimizer.lr": 1e-3, "batch_size": 4}
BASE = make_arm([1.0, 1.1, 1.2], SETTINGS, "multi_head")


def arm_with(variant: str = "linear", **settings: Any) -> Arm:
    own = {key.replace("__", "."): value for key, value in settings.items()}
    return make_arm([1.0, 1.1, 1.2], {**SETTINGS, "attention._target_": variant, **own}, variant)


@pytest.mark.parametrize(
    ("ours", "theirs", "names"),
    [
        ({"threads": 1}, {"threads": 1}, []),
        ({"threads": 1, "git_dirty": True}, {"threads": 2, "git_dirty": True}, ["threads"]),
        ({"data_sha256": "a"}, {"data_sha256": "b"}, []),  # a setting, told as such
        ({"precision": "fp32"}, {}, ["precision"]),
        ({"versions": {"torch": "1", "numpy": "2"}}, {"versions": {"torch": "3", "numpy": "2"}}, ["torch 1 and 3"]),
        ({"versions": {"torch": "1"}}, {}, ["versions"]),
        ({"git_commit": "a", "code": "c"}, {"git_commit": "b", "code": "d"}, []),  # told by module
        ({"git_commit": "a", "code": "c"}, {"git_commit": "b"}, ["commit"]),
    ],
)
def test_conditions(ours: dict[str, Any], theirs: dict[str, Any], names: list[str]) -> None:
    """Conditions of the compared runs that are not the same are named; of packages those that differ."""
    (comparison,) = compare([(make_arm([1.0, 2.0], **ours), make_arm([1.5, 2.0], **theirs))], RULES)
    assert unequal_conditions(comparison) == names


def test_conditions_of_pairs_alone() -> None:
    """A run that is in no pair is compared with nothing."""
    longer = make_arm([1.0, 2.0, 3.0], threads=1)
    odd = replace(longer, runs=[*longer.runs[:2], replace(longer.runs[2], summary={"threads": 8})])
    (comparison,) = compare([(odd, make_arm([1.5, 2.0], threads=1))], RULES)
    assert comparison.seeds == [0, 1] and unequal_conditions(comparison) == []


def test_unnamed() -> None:
    """What the name tells, the attention, what matching moved and what was tuned are no news; the rest is."""
    assert unnamed_differences(arm_with(), BASE) == []
    other = arm_with(model__dropout=0.2, batch_size=8)
    assert unnamed_differences(other, BASE) == ["model.dropout (0.2, not 0)", "batch_size (8, not 4)"]
    named = replace(other, label="linear model.dropout=0.2", block=(("batch_size", 8),))
    assert unnamed_differences(named, BASE) == []
    matched = make_arm([1.0], {**BASE.settings, "model.mlp_ratio": 3}, match={"moved": {"model.mlp_ratio": [4, 3]}})
    assert unnamed_differences(matched, BASE) == []
    code = make_arm([1.0], {**BASE.settings, "code.attnlab.build": "2", "code.attnlab.model": "1"})
    assert unnamed_differences(code, BASE) == ["code (changed: attnlab.build, attnlab.model)"]


def test_settings_that_differ() -> None:
    """Each value with who has it; settings that change together name each other."""
    two = {"model__dropout": 0.2, "batch_size": 8}
    arms = [BASE, arm_with("linear"), arm_with("window", **two)]
    assert beside_the_variants(arms) == [["batch_size", "model.dropout"]] or beside_the_variants(arms) == [
        ["model.dropout", "batch_size"]
    ]
    table, words = settings_that_differ(arms)
    assert isinstance(table, Table) and sorted(table.rows) == [
        ["batch_size", "all others: 4; window: 8", "model.dropout"],
        ["model.dropout", "all others: 0; window: 0.2", "batch_size"],
    ]
    assert words == "The variants themselves differ in attention._target_ (values: settings.csv)."
    assert settings_that_differ([BASE, BASE]) == []
