"""What a handful of seeds can say. Pure functions of arrays: no files, no words, no pictures.

A difference is variant minus baseline of one seed, `n` of them. Everything here assumes that seeds are independent. The
t methods assume in addition that differences are roughly normal, which no test on ten numbers can verify. The exact
tests assume instead that nothing differs: that a variant without an effect has the law of the baseline, whatever law
that is. A verdict asks for both (`difference_p`, `equivalence_p`), so it is right wherever one of the two is.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, special, stats

POWER = 0.8  # the usual chance of finding what is there
MOST_SEEDS = 10_000  # beyond this, no number of seeds is worth naming
BCA_LEAST = 10  # below this many seeds the bootstrap's intervals are far too narrow (76 % instead of 95 % at 3)
EXACT_MOST = 40  # seeds up to which every pattern of signs is counted
PERMUTED_MOST = 20  # seeds up to which every way to deal 2 n results out to two arms is counted
RESAMPLES = 10_000
NUISANCE = 401  # shares of the baseline at which the exact test of two shares is tried

ExactTest = Literal["sign flips", "permutations"]
SIGN_FLIPS: ExactTest = "sign flips"  # of pairs: exact if the differences are symmetric around 0
PERMUTATIONS: ExactTest = "permutations"  # of arms, pairs apart: exact if all results follow one law


class Interval(NamedTuple):
    """From where to where."""

    low: float
    high: float


def t_interval(
    d: Float[np.ndarray, "*batch n"], alpha: float
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Where the true mean difference lies with confidence 1 - alpha: mean -+ t_{1-alpha/2, n-1} sd / sqrt(n)."""
    n = d.shape[-1]
    half = _critical(n, alpha / 2) * d.std(axis=-1, ddof=1) / math.sqrt(n)
    mean = d.mean(axis=-1)
    return np.asarray(mean - half), np.asarray(mean + half)


def _critical(n: int, tail: float) -> float:
    """What a t of n differences exceeds with probability `tail`."""
    return -float(special.stdtrit(n - 1, tail))


def t_p(d: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch"]:
    """How often differences at least as far from 0 would come up if there were none: the two-sided paired t test.

    Where all differences are equal there is no spread to measure them by, and the sign-flip test answers instead.
    """
    n = d.shape[-1]
    mean, error = d.mean(axis=-1), d.std(axis=-1, ddof=1) / math.sqrt(n)
    flat = without_spread(d)
    t = np.abs(mean) / np.where(flat, 1.0, error)
    return np.where(flat, np.where(mean == 0, 1.0, smallest_p(SIGN_FLIPS, n)), 2 * special.stdtr(n - 1, -t))


def without_spread(d: Float[np.ndarray, "*batch n"]) -> Bool[np.ndarray, "*batch"]:
    """Whether all differences are equal, but for rounding."""
    return np.asarray(np.ptp(d, axis=-1) <= 1e-12 * np.abs(d).max(axis=-1))


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


def holm(p: Sequence[float], family: int | None = None, most_true: int | None = None) -> list[float]:
    """Each p corrected for how many were asked, so that a family with no difference is called different at most alpha
    of the time: the i-th smallest (from 0) times (m - i), never less than the one before it (Holm 1979).

    `family` is m where it is larger than the number of p: a test that was declared and has no result counts. Where of
    all hypotheses no more than `most_true` can be true at once, no p is multiplied by more (Shaffer 1986).
    """
    m = max(len(p), family or 0)
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p)[order] * np.minimum(m - np.arange(len(p)), most_true or m)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(x) for x in corrected]


def t_equivalence_p(d: Float[np.ndarray, "*batch n"], margin: float) -> Float[np.ndarray, "*batch"]:
    """How likely differences so small would be if the true one were as large as the margin: two one-sided t tests
    (TOST), of which the worse one counts."""
    n = d.shape[-1]
    mean, error = d.mean(axis=-1), d.std(axis=-1, ddof=1) / math.sqrt(n)
    inside = margin - np.abs(mean)
    flat = without_spread(d)
    # Without spread the signs decide, as in `t_p`: all n differences lie within the margin, a coin toss each.
    exact = np.where(inside > 0, 2.0**-n, 1.0)
    return np.where(flat, exact, special.stdtr(n - 1, -inside / np.where(flat, 1.0, error)))


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
    return _chance(n, np.abs(_Z + effect * math.sqrt(n)) / _critical(n, alpha / 2))


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
    return _chance(n, (margin * math.sqrt(n) - np.abs(_Z)) / _critical(n, alpha))


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


def bad_runs_not_excluded(n: int, alpha: float) -> float:
    """The largest share of bad runs of which n seeds show none with probability alpha: (1 - share)^n = alpha."""
    return 1 - alpha ** (1 / n)


def noise_band(baseline: Float[np.ndarray, " n"], seeds: int, alpha: float) -> float:
    """How far two groups of `seeds` runs of one and the same variant lie apart in mean, when only their seeds differ.

    t_{1-alpha/2, n-1} sd sqrt(2 / seeds): the A/A noise floor, stayed within with probability 1 - alpha.
    """
    n = len(baseline)
    return _critical(n, alpha / 2) * float(baseline.std(ddof=1)) * math.sqrt(2 / seeds)


class Pairing(NamedTuple):
    """What sharing seeds bought: the correlation of paired runs, and the share of the variance of a difference that it
    removed (negative if pairing added to it); None where a side does not vary."""

    correlation: float | None
    variance_removed: float | None


def pairing(variant: Float[np.ndarray, " n"], baseline: Float[np.ndarray, " n"]) -> Pairing:
    """The correlation r of paired runs, and 1 - var(a - b) / (var(a) + var(b))."""
    apart = float(variant.var(ddof=1) + baseline.var(ddof=1))
    if min(float(np.ptp(variant)), float(np.ptp(baseline))) == 0 or apart == 0:
        return Pairing(None, None)
    r = float(np.corrcoef(variant, baseline)[0, 1])
    return Pairing(r, 1 - float((variant - baseline).var(ddof=1)) / apart)


def bca_interval(d: Float[np.ndarray, " n"], alpha: float) -> Interval:
    """The bias-corrected and accelerated bootstrap of the mean, which needs no normal differences but ten of them."""
    if len(d) < BCA_LEAST:
        raise ValueError(f"a BCa interval of {len(d)} differences is too narrow to trust; it needs {BCA_LEAST}")
    if without_spread(d):
        return Interval(float(d.mean()), float(d.mean()))
    found = stats.bootstrap(
        (d,), np.mean, confidence_level=1 - alpha, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def wilson(solved: int, n: int, alpha: float) -> Interval:
    """Where the true share of seeds that solve a task lies; never empty, not even at 0 or n of n (Wilson 1927)."""
    found = stats.binomtest(solved, n).proportion_ci(1 - alpha, method="wilson")
    return Interval(float(found.low), float(found.high))


def median_steps(solved_at: Sequence[float], given_up_at: Sequence[float]) -> float | None:
    """The step by which half of the seeds have solved the task, where some had not when their run ended.

    The median of the Kaplan-Meier curve, in which an unsolved seed counts as "later than its last step"; None if fewer
    than half got there.
    """
    if not solved_at:
        return None
    left = stats.ecdf(stats.CensoredData(uncensored=solved_at, right=given_up_at)).sf
    reached = left.quantiles[left.probabilities <= 0.5]
    return float(reached[0]) if len(reached) else None


def interquartile_mean(scores: Sequence[Float[np.ndarray, " _"]]) -> float:
    """The mean of the middle half of all scores of all tasks: neither one task nor one lucky seed decides it
    (arXiv 2108.13264)."""
    return float(stats.trim_mean(np.concatenate(scores), 0.25))


def probability_of_improvement(
    ours: Sequence[Float[np.ndarray, " _"]], theirs: Sequence[Float[np.ndarray, " _"]]
) -> float:
    """The chance that a run of ours has the higher score than one of theirs on a task drawn at random; ties count half
    (arXiv 2108.13264)."""
    shares = [
        float(stats.mannwhitneyu(a, b, method="asymptotic").statistic) / (len(a) * len(b))
        for a, b in zip(ours, theirs, strict=True)
    ]
    return float(np.mean(shares))


def stratified_bootstrap(
    statistic: Callable[..., float],
    *groups: Sequence[Float[np.ndarray, " _"]],
    alpha: float,
    resamples: int = 1000,
) -> Interval:
    """How far a statistic over tasks moves if the seeds were others: each task's runs are drawn anew, with return, from
    that task alone. A percentile interval, too narrow for few seeds."""
    rng = np.random.default_rng(0)

    def again(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return scores[rng.integers(len(scores), size=len(scores))]

    drawn = [statistic(*([again(scores) for scores in group] for group in groups)) for _ in range(resamples)]
    low, high = np.quantile(drawn, [alpha / 2, 1 - alpha / 2])
    return Interval(float(low), float(high))
