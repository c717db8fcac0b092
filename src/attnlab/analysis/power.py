"""Power: what difference so many seeds find, and how many seeds would tell."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, special, stats

from attnlab.analysis.exact_tests import fewest_seeds
from attnlab.analysis.statistics import critical_t

POWER = 0.8  # the usual chance of finding what is there
MOST_SEEDS = 10_000  # beyond this, no number of seeds is worth naming

# A t of n differences around a true one of `effect` standard deviations is (z + shift) / s, where z is normal, s^2
# is chi-square over its n - 1 degrees, and shift = effect sqrt(n). So a chance is an integral over z of how often s is
# small enough: smooth in z, where the noncentral t of SciPy gives up far in the tail. By the midpoint rule.
_Z = (np.arange(1500) + 0.5) / 75 - 10
_DENSITY = np.exp(-(_Z**2) / 2) / math.sqrt(2 * math.pi) / 75


def _chance(n: int, largest: Float[np.ndarray, " z"]) -> float:
    """How often s is at most so large, over all z."""
    return float(_DENSITY @ special.gammainc((n - 1) / 2, (n - 1) / 2 * np.maximum(largest, 0) ** 2))


@lru_cache(maxsize=4096)
def power(n: int, alpha: float, effect: float) -> float:
    """The chance that the t test of n seeds calls a true difference of `effect` standard deviations different."""
    return _chance(n, np.abs(_Z + effect * math.sqrt(n)) / critical_t(n, alpha / 2))


@lru_cache(maxsize=4096)
def detectable_effect(n: int, alpha: float) -> float:
    """The smallest true difference that n seeds find 4 times in 5, in standard deviations of the differences."""
    low, high = 1e-6, 1.0
    while power(n, alpha, high) < POWER:
        high *= 2
    return float(optimize.brentq(lambda effect: power(n, alpha, effect) - POWER, low, high, rtol=1e-6))


@lru_cache(maxsize=4096)
def equivalence_power(n: int, alpha: float, margin: float) -> float:
    """The chance that two one-sided t tests of n seeds call no difference equivalent, the margin in standard deviations
    of the differences."""
    return _chance(n, (margin * math.sqrt(n) - np.abs(_Z)) / critical_t(n, alpha))


class Seeds(NamedTuple):
    """How many seeds would tell: if the spread is as seen, and at both ends of the 95 % interval of the spread; None
    for more than 10,000."""

    as_seen: int | None
    low: int | None
    high: int | None


def seeds_to_tell(mean: float, sd: float, n: int, alpha: float) -> Seeds:
    """How many seeds find a difference like this one 4 times in 5, where the sd of n differences is as given."""
    effect = abs(mean) / sd
    return _seeds(n, fewest_seeds(alpha), lambda seeds, spread: power(seeds, alpha, effect / spread))


def seeds_to_be_equivalent(margin: float, sd: float, n: int, alpha: float) -> Seeds:
    """How many seeds call two equal variants equivalent 4 times in 5."""
    least = fewest_seeds(alpha, sides=1)
    return _seeds(n, least, lambda seeds, spread: equivalence_power(seeds, alpha, margin / sd / spread))


def _seeds(n: int, least: int, chance: Callable[[int, float], float]) -> Seeds:
    """The fewest seeds whose chance reaches POWER, at the spread seen and at the ends of its chi-square interval."""
    ends = [math.sqrt((n - 1) / stats.chi2.ppf(tail, n - 1)) for tail in (0.975, 0.025)]
    counts = [_fewest(chance, spread) for spread in (1.0, *ends)]
    return Seeds(*(None if count is None else max(least, count) for count in counts))


def _fewest(chance: Callable[[int, float], float], spread: float) -> int | None:
    """The smallest number of seeds whose chance reaches POWER; the chance grows with the seeds."""
    if chance(MOST_SEEDS, spread) < POWER:
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle, spread) >= POWER else (middle, high)
    return high
