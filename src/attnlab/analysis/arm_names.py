"""What an arm is called: by what was changed, where a design or the names of the variants tell it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attnlab.analysis.arms import Arm, labelled

ABSENT = ("none", "null", "false", "0", "0.0")  # levels that leave a part out


def named_by_change(arms: Sequence[Arm], sweep: Any) -> list[Arm]:
    """The arms with short labels: "without the gate", "sink", not multi_head+qk_norm+sink+none; `sweep` is the design
    that the manifest holds. A name that two designs would share says in which settings they differ."""
    by_variant = labelled(arms, [arm.variant for arm in arms])
    names = _by_design(arms, sweep) or _by_words(arms)
    if names == [arm.variant for arm in arms]:
        return by_variant
    return [replace(arm, full_label=full.label) for arm, full in zip(labelled(arms, names), by_variant, strict=True)]


def _by_design(arms: Sequence[Arm], sweep: Any) -> list[str]:
    """Names by the levels at which an arm differs from where the design starts; none if some arm is not of it."""
    axes = _axes(sweep)
    every = [_levels(arm) for arm in arms]
    if not axes or any(levels.get(axis) not in names for levels in every for axis, names in axes.items()):
        return []
    drops = sweep.get("kind") == "drop_one"
    start = {axis: names[-1] if drops else names[0] for axis, names in axes.items()}
    alone = {arm.variant.partition("+")[0] for arm in arms}
    first = "all parts" if drops else alone.pop() if len(alone) == 1 else "baseline"
    if len(axes) == 1 and not drops:
        (axis,) = axes
        return [_level(_part(axis), levels[axis]) for levels in every]
    return [
        ", ".join(_change(axis, levels[axis], start[axis], drops) for axis in axes if levels[axis] != start[axis])
        or first
        for levels in every
    ]


def _change(axis: str, level: str, start: str, drops: bool) -> str:
    part = _part(axis)
    if level in ABSENT:
        return f"without the {part}"
    if drops:
        return f"without {_level(part, start)}"
    return _level(part, level)


def _part(axis: str) -> str:
    return axis.rpartition("/")[2].rpartition(".")[2]


def _level(part: str, level: str) -> str:
    """A level as a word; what is no word by itself has the name of its part before it."""
    plain = level.strip("[]")
    return plain if plain[:1].isalpha() and plain not in ("true", "false", "null") else f"{part} {plain}"


def _axes(sweep: Any) -> dict[str, list[str]]:
    axes = sweep.get("axes") if isinstance(sweep, Mapping) else None
    if not isinstance(axes, Mapping) or not all(isinstance(names, list) and names for names in axes.values()):
        return {}
    return {str(axis): [str(name) for name in names] for axis, names in axes.items()}


def _levels(arm: Arm) -> Mapping[str, str]:
    return next(({axis: str(level) for axis, level in run.levels.items()} for run in arm.runs if run.levels), {})


def _by_words(arms: Sequence[Arm]) -> list[str]:
    """The names of the variants without the words that all have: multi_head+sink beside multi_head+softmax is sink."""
    every = [arm.variant.split("+") for arm in arms]
    if len({len(each) for each in every}) > 1:
        return [arm.variant for arm in arms]
    shared = [len(set(column)) == 1 for column in zip(*every, strict=True)]
    if all(shared):
        return [arm.variant for arm in arms]
    return ["+".join(word for word, same in zip(each, shared, strict=True) if not same) for each in every]
