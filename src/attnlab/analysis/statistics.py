"""What a handful of seeds can say. Pure functions of arrays: no files, no words, no pictures.

A difference is variant minus baseline of one seed, `n` of them. Everything here assumes that seeds are independent. The
t methods assume in addition that differences are roughly normal, which no test on ten numbers can verify; the exact
tests of `exact_tests` do not. A verdict asks for both, so it is right wherever one of the two is.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import special, stats

BCA_LEAST = 10  # below this many seeds the bootstrap's intervals are far too narrow (76 % instead of 95 % at 3)
RESAMPLES = 10_000


class Interval(NamedTuple):
    """From where to where."""

    low: float
    high: float


def t_interval(
    d: Float[np.ndarray, "*batch n"], alpha: float
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Where the true mean difference lies with confidence 1 - alpha: mean -+ t_{1-alpha/2, n-1} sd / sqrt(n)."""
    n = d.shape[-1]
    half = critical_t(n, alpha / 2) * d.std(axis=-1, ddof=1) / math.sqrt(n)
    mean = d.mean(axis=-1)
    return np.asarray(mean - half), np.asarray(mean + half)


def critical_t(n: int, tail: float) -> float:
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
    return np.where(flat, np.where(mean == 0, 1.0, 2 * 2.0**-n), 2 * special.stdtr(n - 1, -t))


def without_spread(d: Float[np.ndarray, "*batch n"]) -> Bool[np.ndarray, "*batch"]:
    """Whether all differences are equal, but for rounding."""
    return np.asarray(np.ptp(d, axis=-1) <= 1e-12 * np.abs(d).max(axis=-1))


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


def bad_runs_not_excluded(n: int, alpha: float) -> float:
    """The largest share of bad runs of which n seeds show none with probability alpha: (1 - share)^n = alpha."""
    return 1 - alpha ** (1 / n)


def noise_band(baseline: Float[np.ndarray, " n"], seeds: int, alpha: float) -> float:
    """How far two groups of `seeds` runs of one and the same variant lie apart in mean, when only their seeds differ.

    t_{1-alpha/2, n-1} sd sqrt(2 / seeds): the A/A noise floor, stayed within with probability 1 - alpha.
    """
    n = len(baseline)
    return critical_t(n, alpha / 2) * float(baseline.std(ddof=1)) * math.sqrt(2 / seeds)


class SeedPairing(NamedTuple):
    """What sharing seeds bought: the correlation of paired runs, and the share of the variance of a difference that it
    removed (negative if pairing added to it); None where a side does not vary."""

    correlation: float | None
    variance_removed: float | None


def pairing(variant: Float[np.ndarray, " n"], baseline: Float[np.ndarray, " n"]) -> SeedPairing:
    """The correlation r of paired runs, and 1 - var(a - b) / (var(a) + var(b))."""
    apart = float(variant.var(ddof=1) + baseline.var(ddof=1))
    if min(float(np.ptp(variant)), float(np.ptp(baseline))) == 0 or apart == 0:
        return SeedPairing(None, None)
    r = float(np.corrcoef(variant, baseline)[0, 1])
    return SeedPairing(r, 1 - float((variant - baseline).var(ddof=1)) / apart)


def bca_interval(d: Float[np.ndarray, " n"], alpha: float) -> Interval:
    """The bias-corrected and accelerated bootstrap of the mean, which needs no normal differences but ten of them."""
    if len(d) < BCA_LEAST:
        raise ValueError(f"a BCa interval of {len(d)} differences is too narrow to trust; it needs {BCA_LEAST}")
    if without_spread(d):
        return Interval(float(d.mean()), float(d.mean()))
    interval = stats.bootstrap(
        (d,), np.mean, confidence_level=1 - alpha, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))


def wilson(solved: int, n: int, alpha: float) -> Interval:
    """Where the true share of seeds that solve a task lies; never empty, not even at 0 or n of n (Wilson 1927)."""
    interval = stats.binomtest(solved, n).proportion_ci(1 - alpha, method="wilson")
    return Interval(float(interval.low), float(interval.high))


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
