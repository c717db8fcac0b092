"""Exact tests: right for any law of results, because they count patterns rather than assume a shape.

They assume that nothing differs: that a variant without an effect has the law of the baseline, whatever law that is.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, stats

from attnlab.analysis.statistics import Interval, t_equivalence_p, t_p

EXACT_MOST = 40  # seeds up to which every pattern of signs is counted
PERMUTED_MOST = 20  # seeds up to which every way to deal 2 n results out to two arms is counted
NUISANCE = 401  # shares of the baseline at which the exact test of two shares is tried

ExactTest = Literal["sign flips", "permutations"]
SIGN_FLIPS: ExactTest = "sign flips"  # of pairs: exact if the differences are symmetric around 0
PERMUTATIONS: ExactTest = "permutations"  # of arms, pairs apart: exact if all results follow one law


def smallest_p(test: ExactTest, n: int, sides: int = 2) -> float:
    """The smallest p that an exact test can give: all of one sign, or no result of one arm among those of the other."""
    return sides * (2.0**-n if test == SIGN_FLIPS else 1 / math.comb(2 * n, n))


def exact_test(n: int, alpha: float, sides: int = 2) -> ExactTest | None:
    """The exact test that can reach alpha with n seeds; None if neither can, so that no verdict is possible.

    Sign flips where they reach it, because they use the pairs; else permutations of the arms, which have more
    patterns. It depends on what is planned and on no result.
    """
    if n >= 2 and smallest_p(SIGN_FLIPS, n, sides) <= alpha:
        return SIGN_FLIPS
    possible = 2 <= n <= PERMUTED_MOST and smallest_p(PERMUTATIONS, n, sides) <= alpha
    return PERMUTATIONS if possible else None


def fewest_seeds(alpha: float, sides: int = 2, test: ExactTest | None = None) -> int:
    """The fewest seeds with which a verdict is possible, or with which one of the exact tests can give one."""
    n = 2
    while exact_test(n, alpha, sides) not in ((test,) if test else (SIGN_FLIPS, PERMUTATIONS)):
        n += 1
    return n


def sign_flip_p(d: Float[np.ndarray, " n"], sides: int = 2) -> float:
    """Under no difference each sign is a coin toss: the share of the 2^n patterns with a mean at least as far from 0,
    or with one side at least as far above it.

    All patterns are counted, not drawn: the sums of the first half of the differences meet those of the second,
    sorted. Beyond 40 seeds 100,000 patterns are drawn (with the observed one among them).
    """
    n, total = len(d), float(d.sum())
    total = abs(total) if sides == 2 else total
    slack = 1e-12 * float(np.abs(d).sum())  # sums in another order round differently
    if n > EXACT_MOST:
        drawn = np.random.default_rng(0).choice((-1.0, 1.0), size=(100_000, n)) @ d
        drawn = np.abs(drawn) if sides == 2 else drawn
        return float((1 + np.count_nonzero(drawn >= total - slack)) / (1 + len(drawn)))
    if sides == 2 and total <= slack:
        return 1.0
    left, right = _subset_sums(2 * d[: n // 2]) - d[: n // 2].sum(), _subset_sums(2 * d[n // 2 :]) - d[n // 2 :].sum()
    return min(1.0, sides * _share_above(left, right, total - slack, 2**n))


def permutation_p(ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"], sides: int = 2) -> float:
    """If both arms follow one law, any n of the 2 n results may have been ours: the share of all ways to deal them out
    with means at least as far apart, or with one side ours at least as far above."""
    n = len(ours)
    pooled = np.concatenate([ours, theirs])
    pooled = pooled - pooled.mean()
    slack = 1e-12 * float(np.abs(pooled).sum())
    total = float(pooled[:n].sum())
    total = abs(total) if sides == 2 else total
    if sides == 2 and total <= slack:
        return 1.0
    left, right, order = _subset_sums(pooled[:n]), _subset_sums(pooled[n:]), _subsets_by_size(n)
    ways = math.comb(2 * n, n)
    share = sum(_share_above(left[order[k]], right[order[n - k]], total - slack, ways) for k in range(n + 1))
    return min(1.0, sides * share)  # dealt the other way round, every sum has the other sign: both tails are equal


def _share_above(left: Float[np.ndarray, " _"], right: Float[np.ndarray, " _"], least: float, ways: int) -> float:
    """How many sums of one of the left and one of the right reach `least`, of so many ways."""
    return float(right.size * left.size - np.searchsorted(np.sort(right), least - left, side="left").sum()) / ways


def _subset_sums(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " subsets"]:
    """The sum of every subset."""
    sums = np.zeros(1)
    for x in values:
        sums = np.concatenate([sums, sums + x])
    return sums


@lru_cache(maxsize=32)
def _subsets_by_size(n: int) -> list[Int[np.ndarray, " _"]]:
    """Which of the sums of `_subset_sums` have 0, 1, ... n terms."""
    sizes = np.zeros(1, dtype=np.int64)
    for _ in range(n):
        sizes = np.concatenate([sizes, sizes + 1])
    return [np.flatnonzero(sizes == k) for k in range(n + 1)]


def exact_p(ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"], test: ExactTest, sides: int = 2) -> float:
    """The p of an exact test of results that are paired by their place; with one side, of ours being higher."""
    return sign_flip_p(ours - theirs, sides) if test == SIGN_FLIPS else permutation_p(ours, theirs, sides)


def difference_p(ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"], test: ExactTest) -> float:
    """The larger p of the paired t test and of the exact test: right where differences are normal, however much the
    spreads of the arms differ, and where both arms follow one law, whichever that is."""
    return max(float(t_p(ours - theirs)), exact_p(ours, theirs, test))


def worst_case_p(
    ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"], ours_higher: bool, test: ExactTest
) -> float:
    """The p by ranks, where a result that is lost (nan) takes the extreme place that speaks against ours being higher,
    or lower; 1 where the difference then points the other way."""
    sign = 1.0 if ours_higher else -1.0
    a = np.where(np.isnan(ours), -np.inf, sign * ours)
    b = np.where(np.isnan(theirs), np.inf, sign * theirs)
    if test == PERMUTATIONS:
        ranks = stats.rankdata(np.concatenate([a, b]))
        a, b = ranks[: len(a)], ranks[len(a) :]
        return permutation_p(a, b) if a.sum() > b.sum() else 1.0
    d = a - b
    signed = np.sign(d) * stats.rankdata(np.abs(d))
    return sign_flip_p(signed) if signed.sum() > 0 else 1.0


def paired_differences(ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ours minus theirs; 0 where both are the same, even if that is inf."""
    same = ours == theirs
    d: np.ndarray = np.where(same, 0.0, ours) - np.where(same, 0.0, theirs)
    return d


def signed_ranks(d: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The ranks of the sizes of differences, with their signs (Wilcoxon 1945, those of 0 ranked, too: Pratt 1959)."""
    ranks: np.ndarray = np.sign(d) * stats.rankdata(np.abs(d))
    return ranks


def worst_signed_ranks_p(ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"], ours_higher: bool) -> float:
    """The p of signed ranks, where a result that is lost (nan) speaks against ours being higher, or lower, as much as
    can be; 1 where the difference then points the other way."""
    sign = 1.0 if ours_higher else -1.0
    a, b = np.where(np.isnan(ours), -np.inf, sign * ours), np.where(np.isnan(theirs), np.inf, sign * theirs)
    ranks = signed_ranks(paired_differences(a, b))
    return sign_flip_p(ranks) if ranks.sum() > 0 else 1.0


def equivalence_p(
    ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"], margin: float, test: ExactTest | None
) -> float:
    """The larger p of TOST and of the same two questions put to the exact test: ours, moved up by the margin, should
    be higher than theirs, and moved down by it lower. 1 without an exact test."""
    if test is None:
        return 1.0
    sides = exact_p(ours + margin, theirs, test, 1), exact_p(theirs + margin, ours, test, 1)
    return max(float(t_equivalence_p(ours - theirs, margin)), *sides)


def fisher_p(ours: int, theirs: int, n: int) -> float:
    """Fisher's exact test of `ours` of n seeds against `theirs` of n, two-sided."""
    return float(stats.fisher_exact([[ours, n - ours], [theirs, n - theirs]]).pvalue)


def share_equivalence_p(ours: int, theirs: int, n: int, margin: float) -> float:
    """How likely shares so close would be if the true ones were the margin apart: the worse of both sides."""
    return max(_shares_p(ours, theirs, n, margin), _shares_p(theirs, ours, n, margin))


def share_interval(ours: int, theirs: int, n: int, alpha: float) -> Interval:
    """Where the true difference of shares lies: all that the exact test of `share_equivalence_p` does not rule out at
    alpha / 2 on either side."""

    def end(more: int, less: int) -> float:
        if more == n and less == 0:
            return 1.0
        return float(
            optimize.brentq(lambda d: _shares_p(more, less, n, d) - alpha / 2, (more - less) / n, 1.0, xtol=1e-4)
        )

    return Interval(-end(theirs, ours), end(ours, theirs))


@lru_cache(maxsize=65536)
def _shares_p(ours: int, theirs: int, n: int, apart: float) -> float:
    """The chance of counts that speak at least as much for less than `apart` between the true shares, ours minus
    theirs, where it is `apart`: the largest over all that theirs may be, so exact and unconditional.

    Counts are ordered by the difference over its standard error, a success and a failure added to each arm (Agresti &
    Caffo 2000): any order is exact, and this one is nearly as sharp as the score.
    """
    if apart >= 1:
        return 0.0 if ours - theirs < n else 1.0
    counts = np.arange(n + 1)
    share = (counts + 1) / (n + 2)
    variance = share * (1 - share) / (n + 2)
    z = (share[:, None] - share - apart) / np.sqrt(variance[:, None] + variance)
    as_close = (z <= z[ours, theirs] + 1e-12).astype(float)
    base = np.linspace(max(0.0, -apart), min(1.0, 1 - apart), NUISANCE)[:, None]
    chance = (stats.binom.pmf(counts, n, base + apart) @ as_close) * stats.binom.pmf(counts, n, base)
    return float(chance.sum(axis=1).max())
