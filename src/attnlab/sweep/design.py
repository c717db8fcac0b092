"""Designs: which combinations of settings an ablation tries, from a baseline and axes written down as data.

The first level of every axis is the baseline's. `grid` takes every combination; `add_one` the baseline, and each other
level alone; `drop_one` all last levels together, and each taken back alone; `factorial` all 2^k combinations of two
levels each, or with `generators` a regular fraction of them (Box & Hunter 1961, doi 10.1080/00401706.1961.10489951).
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from attnlab.errors import UsageError, nearest, shown

KINDS = ("grid", "add_one", "drop_one", "factorial")
KEYS = ("design", "settings", "axes", "arms", "generators", "seeds")
LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"  # of the axes in order; I is the identity
PLAIN = re.compile(r"[\w./@:+-]+")
TYPED_ONLY = re.compile(r"[+~]*(allow_targets|hydra)\b")  # which packages run, and what Hydra does, no file may say
MOST_RUNS = 100_000


class Axis(NamedTuple):
    """One thing that is varied: its levels by name, each with the words that set it; the first is the baseline's."""

    name: str
    levels: dict[str, tuple[str, ...]]


class Point(NamedTuple):
    """One combination: the words that make it, the level of each axis, and whether others are held against it."""

    overrides: tuple[str, ...]
    levels: dict[str, str]
    is_baseline: bool


class Design(NamedTuple):
    """What a file configs/sweep/NAME.yaml says, checked."""

    kind: str
    axes: tuple[Axis, ...]
    generators: tuple[str, ...]
    settings: tuple[str, ...]  # words that all runs have in common
    seeds: tuple[int, ...]
    arms: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # words of a level's own, which win over `settings`

    def points(self) -> list[Point]:
        """Every combination once, the baseline first, if it is one of them: a fraction may have left it out."""
        first = {axis.name: next(iter(axis.levels)) for axis in self.axes}
        last = {axis.name: list(axis.levels)[-1] for axis in self.axes}
        base = last if self.kind == "drop_one" else first
        chosen = list(self._others(first, last))
        if self.kind != "factorial":
            chosen.append(base)
        combinations = {tuple(levels.values()): levels for levels in sorted(chosen, key=lambda levels: levels != base)}
        return [Point(self._overrides_of(levels), levels, levels == base) for levels in combinations.values()]

    def _others(self, first: dict[str, str], last: dict[str, str]) -> Iterator[dict[str, str]]:
        if self.kind == "grid":
            for names in itertools.product(*(axis.levels for axis in self.axes)):
                yield {axis.name: name for axis, name in zip(self.axes, names, strict=True)}
        elif self.kind == "add_one":
            yield from (first | {axis.name: name} for axis in self.axes for name in list(axis.levels)[1:])
        elif self.kind == "drop_one":
            yield from (last | {axis.name: first[axis.name]} for axis in self.axes)
        else:
            for signs in fraction(len(self.axes), self.generators):
                levels = zip(self.axes, signs, strict=True)
                yield {axis.name: (first if sign < 0 else last)[axis.name] for axis, sign in levels}

    def _overrides_of(self, levels: Mapping[str, str]) -> tuple[str, ...]:
        own = tuple(word for name in levels.values() for word in self.arms.get(name, ()))
        return tuple(word for axis in self.axes for word in axis.levels[levels[axis.name]]) + own

    def described(self) -> dict[str, Any]:
        """What a report needs to know of it."""
        return {
            "kind": self.kind,
            "axes": {axis.name: list(axis.levels) for axis in self.axes},
            "generators": list(self.generators),
            "aliases": aliases(len(self.axes), self.generators),
        }


def fraction(k: int, generators: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """The signs of k axes in every run of a 2^(k - p) design, p being the number of generators such as D=ABC.

    An axis with a generator takes the product of the signs of the axes that it names. The first of all runs has every
    free axis at -1; a generator with an even number of letters is given with a minus where the baseline should be one
    of the runs: D=-AB.
    """
    products = dict(_generator(word, k) for word in generators)
    free = [axis for axis in range(k) if axis not in products]
    for chosen in itertools.product((-1, 1), repeat=len(free)):
        signs = dict(zip(free, chosen, strict=True))
        for axis, (sign, factors) in products.items():
            for factor in factors:
                sign *= signs[factor]
            signs[axis] = sign
        yield tuple(signs[axis] for axis in range(k))


def _generator(word: str, k: int) -> tuple[int, tuple[int, tuple[int, ...]]]:
    left, _, right = word.partition("=")
    minus, letters = right.startswith("-"), right.removeprefix("-")
    return LETTERS.index(left), (-1 if minus else 1, tuple(LETTERS.index(letter) for letter in letters))


def aliases(k: int, generators: Sequence[str]) -> dict[str, list[str]]:
    """Which effects a fraction cannot tell apart: each main effect and pair, with the others of at most two letters.

    Words of the defining relation are the products of generators; effects that differ by one of them are the same
    column. Letters stand for axes in their order. Empty for a full design.
    """
    letters = [frozenset(word.replace("=", "").replace("-", "")) for word in generators]
    relation = set()
    for size in range(1, len(letters) + 1):
        for some in itertools.combinations(letters, size):
            product: frozenset[str] = frozenset()
            for word in some:
                product ^= word
            relation.add(product)
    effects = [frozenset(some) for n in (1, 2) for some in itertools.combinations(LETTERS[:k], n)]
    aliased = {"".join(sorted(e)): ["".join(sorted(e ^ w)) for w in relation if 0 < len(e ^ w) <= 2] for e in effects}
    return {effect: sorted(others) for effect, others in aliased.items() if others}


def read_design(name: str, content: Any) -> Design:
    """A design from the content of its YAML file; refused with the key that is wrong."""
    key = f"sweep={name}"
    if not isinstance(content, Mapping):
        raise UsageError(f"{key} must hold settings by name: {', '.join(KEYS)}")
    for word in content:
        if word not in KEYS:
            raise UsageError(f"{key}: {word} is not a key{nearest(str(word), KEYS)} (keys: {', '.join(KEYS)})")
    kind = content.get("design", "grid")
    if kind not in KINDS:
        raise UsageError(f"{key}: design ({shown(kind)}) must be {' | '.join(KINDS)}")
    axes = _axes(key, content.get("axes"))
    for axis in axes:
        if kind == "factorial" and len(axis.levels) != 2:
            raise UsageError(f"{key}: axes.{axis.name} has {len(axis.levels)} levels; factorial needs two of each")
    generators = _generators(key, kind, content.get("generators", []), len(axes))
    settings = content.get("settings", {})
    if not isinstance(settings, Mapping):
        raise UsageError(f"{key}: settings ({shown(settings)}) must hold settings by name, as key: value")
    arms = _arms(key, content.get("arms", {}), axes)
    design = Design(kind, axes, generators, _overrides_of(key, settings), _seeds(key, content.get("seeds", 1)), arms)
    count = math.prod(len(axis.levels) for axis in axes)
    if kind in ("grid", "factorial") and count >> len(generators) > MOST_RUNS:
        raise UsageError(f"{key}: axes make {count:,} combinations; at most {MOST_RUNS:,} are run")
    return design


def _axes(key: str, content: Any) -> tuple[Axis, ...]:
    if not isinstance(content, Mapping) or not content:
        raise UsageError(f"{key}: axes must name what is varied, as in axes: {{attention/normalizer: [softmax, relu]}}")
    axes = []
    for name, levels in content.items():
        axis_key = f"{key}: axes.{name}"
        if isinstance(levels, list):
            named: dict[str, tuple[str, ...]] = {_text(level): _overrides_of(key, {name: level}) for level in levels}
            if len(named) < len(levels):
                raise UsageError(f"{axis_key} names a level twice: {', '.join(map(_text, levels))}")
        elif isinstance(levels, Mapping) and all(isinstance(settings, Mapping) for settings in levels.values()):
            named = {str(level): _overrides_of(key, settings) for level, settings in levels.items()}
        else:
            raise UsageError(f"{axis_key} must be a list of values, or levels by name that each hold settings")
        if len(named) < 2:
            raise UsageError(f"{axis_key} needs two levels or more; what does not vary belongs into settings")
        axes.append(Axis(str(name), named))
    return tuple(axes)


def _arms(key: str, content: Any, axes: Sequence[Axis]) -> dict[str, tuple[str, ...]]:
    """Settings of single levels, such as the learning rate of one variant."""
    names = [name for axis in axes for name in axis.levels]
    if not isinstance(content, Mapping) or not all(isinstance(settings, Mapping) for settings in content.values()):
        raise UsageError(
            f"{key}: arms ({shown(content)}) must hold settings by level: {{linear: {{optimizer.lr: 3e-3}}}}"
        )
    varied = {word.partition("=")[0] for axis in axes for overrides in axis.levels.values() for word in overrides}
    for name, settings in content.items():
        if str(name) not in names:
            raise UsageError(f"{key}: arms.{name} is no level{nearest(str(name), names)} (levels: {', '.join(names)})")
        if both := varied & {str(each) for each in settings}:
            raise UsageError(f"{key}: arms.{name} sets {', '.join(sorted(both))}, which an axis varies")
    return {str(name): _overrides_of(key, settings) for name, settings in content.items()}


def _overrides_of(key: str, settings: Mapping[Any, Any]) -> tuple[str, ...]:
    """Settings as words; refused where a file may not set them."""
    for name, value in settings.items():
        if TYPED_ONLY.match(str(name)):
            raise UsageError(f"{key}: {name} ({shown(value)}) must be typed, for no file can allow itself")
    return tuple(f"{name}={_text(value)}" for name, value in settings.items())


def _text(value: Any) -> str:
    """A value as it is typed for Hydra."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(inner)}" for key, inner in value.items()) + "}"
    if not isinstance(value, str):
        return shown(value)
    return value if PLAIN.fullmatch(value) else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _generators(key: str, kind: str, generators: Any, k: int) -> tuple[str, ...]:
    letters = LETTERS[:k]
    if not isinstance(generators, list) or (generators and kind != "factorial"):
        raise UsageError(f"{key}: generators ({shown(generators)}) must be a list, of a factorial design")
    if generators and k > len(LETTERS):
        raise UsageError(f"{key}: generators name axes by letters, so there may be {len(LETTERS)} axes, not {k}")
    for word in generators:
        match = re.fullmatch(r"([A-Z])=-?([A-Z]+)", word) if isinstance(word, str) else None
        dependent = [other.partition("=")[0] for other in generators if isinstance(other, str)]
        sound = match is not None and set(match[1] + match[2]) <= set(letters) and len(set(match[2])) == len(match[2])
        if match is None or not sound or set(match[2]) & set(dependent) or dependent.count(match[1]) > 1:
            raise UsageError(
                f"{key}: generators ({shown(word)}) must give one axis as a product of others that have no generator, "
                f"such as {letters[-1]}={letters[:-1]}; the axes in order are {', '.join(letters)}"
            )
    return tuple(generators)


def _seeds(key: str, content: Any) -> tuple[int, ...]:
    if isinstance(content, int) and content > MOST_RUNS:
        raise UsageError(f"{key}: seeds ({content}) must be at most {MOST_RUNS:,}")
    seeds = list(range(content)) if isinstance(content, int) and not isinstance(content, bool) else content
    whole = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"{key}: seeds ({shown(content)}) must be a number of seeds, or a list of different ones")
    return tuple(seeds)
