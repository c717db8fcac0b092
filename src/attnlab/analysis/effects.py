"""Main effects and interactions: what each choice of a factorial ablation does by itself, and what two do together.

For every seed the results are fitted by least squares with one column per choice and one per pair of choices, and the
fits of all seeds give the interval. The column of a choice is its indicator less the share of the factor's levels, so
that in a balanced design a main effect is the mean with the choice less the mean with the factor's first level, and an
interaction is by how much the effect of one choice changes where the other is made, too. What a fraction of a design
cannot tell apart is listed as such, never guessed.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from attnlab.analysis.arms import Arm
from attnlab.analysis.exact_tests import sign_flip_p
from attnlab.analysis.groups import changing
from attnlab.analysis.statistics import Interval, holm, t_interval, t_p

CLASS = "attention._target_"


class FactorEffect(NamedTuple):
    """One main effect or interaction over seeds, in the metric's unit."""

    name: str
    kind: str  # main | interaction
    mean: float
    interval: Interval
    p: float  # the larger of that of the t test and of sign flips over seeds, as in a verdict
    holm_p: float  # over all effects of the table


class Effects(NamedTuple):
    """The effects of a design; `levels` tells the first level of each factor from the others."""

    levels: dict[str, list[str]]
    together: dict[str, list[str]]  # factor -> others that always change with it: an effect is that of all of them
    seeds: list[int]
    effects: list[FactorEffect]
    aliased: list[str]  # pairs of choices that this design cannot tell from what else is in the table


def factorial(arms: Sequence[Arm], baseline: Arm, alpha: float) -> Effects | None:
    """The effects, if some arm differs from the baseline in two factors or more; else there is nothing to add."""
    levels_by_factor, together = _factors(arms)
    first = arms.index(baseline)
    table = {factor: list(dict.fromkeys([each[first], *each])) for factor, each in levels_by_factor.items()}
    rows = [{factor: each[i] for factor, each in levels_by_factor.items()} for i in range(len(arms))]
    apart = [sum(row[factor] != levels[0] for factor, levels in table.items()) for row in rows]
    if len(table) < 2 or max(apart) < 2:
        return None
    seeds = sorted(set.intersection(*(set(c.finished) for c in arms)))
    if len(seeds) < 2:
        return None
    names, columns, aliased = _columns(rows, table)
    results = np.array([[c.finished[seed].final for c in arms] for seed in seeds])
    fits = np.linalg.lstsq(columns, results.T, rcond=None)[0]  # one column of coefficients per seed
    coefficients = fits[1:]  # the first is the mean of all
    low, high = t_interval(coefficients, alpha)
    p = [max(float(by_t), sign_flip_p(each)) for by_t, each in zip(t_p(coefficients), coefficients, strict=True)]
    effects = [
        FactorEffect(name, kind, float(c.mean()), Interval(float(a), float(b)), raw, corrected)
        for (name, kind), c, a, b, raw, corrected in zip(names, coefficients, low, high, p, holm(p), strict=True)
    ]
    return Effects(table, together, seeds, effects, aliased)


def _factors(arms: Sequence[Arm]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Every factor and the level of each arm; factors that always change together count once, and the others of
    them stand in the second dict, under the one that counts."""
    factors: dict[tuple[int, ...], tuple[str, list[str]]] = {}
    together: dict[str, list[str]] = {}
    typed = [c.variant.split("+") for c in arms]
    places = zip(*typed, strict=True) if len({len(each) for each in typed}) == 1 else ()
    called = {_partition(each): list(each) for each in places}  # as the variants' names call it
    keys = [key for keys in changing([c.settings for c in arms]) for key in keys]
    for factor in dict.fromkeys(factor_of(key, arms) for key in keys):
        if factor is not None:
            each_level = [level_of(c, factor) for c in arms]
            partition = _partition(each_level)
            if partition in factors:
                together.setdefault(factors[partition][0], []).append(factor)
            factors.setdefault(partition, (factor, called.get(partition, each_level)))
    return {factor: each_level for partition, (factor, each_level) in factors.items() if any(partition)}, together


def _partition(levels: Sequence[str]) -> tuple[int, ...]:
    """Which levels are equal, whatever they are called."""
    return tuple(levels.index(level) for level in levels)


def factor_of(key: str, arms: Sequence[Arm]) -> str | None:
    """The factor that a setting belongs to: a slot such as attention/mask, the attention itself, or the key.

    None for what only follows from the choice of an attention.
    """
    parts = key.split(".")
    if parts[0] == "position":
        return "position"
    if parts[0] != "attention":
        return key
    if parts[1] == "position":
        return None  # follows from position
    several = len({c.settings.get(CLASS) for c in arms}) > 1
    if len(parts) == 2:
        return "attention" if several else key
    everywhere = all(any(k.startswith(f"attention.{parts[1]}.") for k in c.settings) for c in arms)
    return f"attention/{parts[1]}" if everywhere else "attention"


def level_of(arm: Arm, factor: str) -> str:
    """What an arm holds at a factor, in a few words."""
    if factor == "attention":
        return arm.variant.partition("+")[0]
    if "/" not in factor and factor != "position":
        value = arm.settings.get(factor)
        return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    prefix = factor.replace("/", ".") + "."
    inside = {key.removeprefix(prefix): value for key, value in arm.settings.items() if key.startswith(prefix)}
    classes = [str(value).rpartition(".")[2] for key, value in inside.items() if key.endswith("_target_")]
    options = [f"{key}={value}" for key, value in inside.items() if _is_option(key, value)]
    return " ".join(["+".join(classes) or "none", *options])


def _is_option(key: str, value: Any) -> bool:
    return not key.rpartition(".")[2].startswith("_") and value is not None and not isinstance(value, Mapping)


def _columns(
    rows: Sequence[Mapping[str, str]], table: Mapping[str, Sequence[str]]
) -> tuple[list[tuple[str, str]], Float[np.ndarray, "arms columns"], list[str]]:
    """Names and columns of all effects that the design can tell apart, and the names of those that it cannot."""
    short = {factor: factor.rpartition("/")[2].rpartition(".")[2] for factor in table}
    main: list[tuple[str, str, np.ndarray]] = []
    for factor, (first, *others) in table.items():
        for level in others:
            column = np.array([row[factor] == level for row in rows]) - 1 / len(table[factor])
            main.append((factor, f"{short[factor]}: {level} instead of {first}", column))
    names: list[tuple[str, str]] = []
    columns, aliased = [np.ones(len(rows))], []
    pairs = [(f"({a[1]}) with ({b[1]})", "interaction", a[2] * b[2]) for a, b in combinations(main, 2) if a[0] != b[0]]
    for name, kind, column in [*((name, "main", column) for _, name, column in main), *pairs]:
        wider = np.stack([*columns, column], axis=1)
        if np.linalg.matrix_rank(wider, tol=1e-9) == wider.shape[1]:
            names.append((name, kind))
            columns.append(column)
        else:
            aliased.append(name)
    return names, np.stack(columns, axis=1), aliased
