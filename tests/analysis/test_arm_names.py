"""What arms are called: by the levels of a design, or by the words in which their variants differ."""

from typing import Any

import pytest
from tests.analysis.in_memory import make_run

from attnlab.analysis.arm_names import named_by_change
from attnlab.analysis.arms import Arm, arm_of_runs, arms_called

PARTS = {
    "attention/score": ["[scaled]", "[qk_norm]"],
    "attention/gate": ["none", "elementwise"],
    "attention.conv": ["0", "4"],
}


def arms_of(*variants: str, levels: list[dict[str, str]] | None = None, **settings: Any) -> list[Arm]:
    """An arm for each variant, planned by a design at these levels."""
    arms = []
    for i, variant in enumerate(variants):
        run = make_run(0, 1.0, variant=variant, levels=levels[i] if levels else {})
        own = {key: values[i] for key, values in settings.items()}
        arms.append(arm_of_runs(variant, f"{variant}-{i}", own, [run]))
    return arms


def labels(arms: list[Arm], sweep: Any = None) -> list[str]:
    return [arm.label for arm in named_by_change(arms, sweep)]


def levels(*rows: str) -> list[dict[str, str]]:
    """A level of each axis of PARTS, by its number: "110" has the first two parts."""
    return [{axis: names[int(at)] for (axis, names), at in zip(PARTS.items(), row, strict=True)} for row in rows]


@pytest.mark.parametrize(
    ("kind", "rows", "names"),
    [
        (
            "drop_one",
            ("111", "011", "101", "110"),
            ["all parts", "without qk_norm", "without the gate", "without the conv"],
        ),
        ("add_one", ("000", "100", "010", "001"), ["multi_head", "qk_norm", "elementwise", "conv 4"]),
        ("factorial", ("000", "110", "111"), ["multi_head", "qk_norm, elementwise", "qk_norm, elementwise, conv 4"]),
    ],
)
def test_designs(kind: str, rows: tuple[str, ...], names: list[str]) -> None:
    """An arm is called by what a design changed."""
    arms = arms_of(*(f"multi_head+{row}" for row in rows), levels=levels(*rows))
    assert labels(arms, {"kind": kind, "axes": PARTS}) == names


def test_grid_of_one_axis() -> None:
    """Of one axis the level says it all."""
    arms = arms_of("multi_head", "multi_head", levels=[{"attention.conv": "0"}, {"attention.conv": "4"}])
    assert labels(arms, {"kind": "grid", "axes": {"attention.conv": ["0", "4"]}}) == ["conv 0", "conv 4"]


@pytest.mark.parametrize(
    "sweep", [None, "x", {"axes": []}, {"axes": {"a": []}}, {"kind": "grid", "axes": {"seed": ["1"]}}, {"axes": PARTS}]
)
def test_without_design(sweep: Any) -> None:
    """Arms that no design planned, or another one, are called by the words that tell them apart."""
    assert labels(arms_of("multi_head+softmax", "multi_head+sink"), sweep) == ["softmax", "sink"]
    assert labels(arms_of("multi_head", "gqa"), sweep) == ["multi_head", "gqa"]
    assert labels(arms_of("multi_head", "gqa+sink"), sweep) == ["multi_head", "gqa+sink"]


def test_names_shared() -> None:
    """Two arms of one name say in which setting they differ, and both names mean the arm."""
    arms = named_by_change(arms_of("a+sink", "a+sink", "a+softmax", d=[8, 16, 8]), None)
    assert [arm.label for arm in arms] == ["sink d=8", "sink d=16", "softmax"]
    for name in ("sink d=16", "a+sink d=16"):
        assert [arm.folder for arm in arms_called(arms, name)] == ["a+sink-1"]
        assert name in arms[1].names
