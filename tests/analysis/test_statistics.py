"""Statistics against other libraries, against enumeration, and against what simulation says they should do."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from attnlab.analysis import exact_tests, power
from attnlab.analysis import statistics as ours

DRAWS = np.random.default_rng(7)


@pytest.mark.parametrize("n", [2, 3, 5, 11])
def test_paired_t_is_scipy(n: int) -> None:
    """The paired t-test and its interval are those of SciPy."""
    a, b = DRAWS.normal(size=(2, n))
    theirs = stats.ttest_rel(a, b)
    low, high = ours.t_interval(a - b, 0.05)
    assert float(ours.t_p(a - b)) == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (float(low), float(high)) == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-9)


def test_equal_differences() -> None:
    """Equal differences have no spread and the signs decide."""
    d = np.full(6, 0.1) + 1e-17
    assert float(ours.t_p(d)) == 2**-5
    assert float(ours.t_p(np.zeros(6))) == 1.0


@pytest.mark.parametrize("p", [[0.01, 0.04, 0.03, 0.005], [0.02, 0.02, 0.5], [1.0], [0.3, 1e-9, 0.049, 0.05, 0.3]])
def test_holm_is_that_of_statsmodels(p: list[float]) -> None:
    assert ours.holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist(), rel=1e-12)


def test_a_test_without_a_result_counts_in_the_family() -> None:
    assert ours.holm([0.01, 0.02], family=4) == pytest.approx(
        multipletests([0.01, 0.02, 1.0, 1.0], method="holm")[1][:2].tolist()
    )


@pytest.mark.parametrize(("n", "shift", "margin"), [(3, 0.0, 1.0), (6, 0.3, 0.5), (10, -0.4, 0.3), (30, 0.0, 0.8)])
def test_equivalence_is_that_of_statsmodels(n: int, shift: float, margin: float) -> None:
    d = DRAWS.normal(shift, size=n)
    theirs = DescrStatsW(d).ttost_mean(-margin, margin)[0]
    assert float(ours.t_equivalence_p(d, margin)) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_sign_flips_are_those_of_enumeration(n: int) -> None:
    for d in (DRAWS.normal(0.5, size=n), np.round(DRAWS.normal(size=n), 1)):  # rounded ones have ties
        patterns = np.array(list(itertools.product((-1, 1), repeat=n))) @ d
        share = np.mean(np.abs(patterns) >= abs(d.sum()) - 1e-9)
        assert exact_tests.sign_flip_p(d) == pytest.approx(float(share), abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 10, 24])
def test_smallest_sign_flip_p(n: int) -> None:
    """The smallest sign flip p is reached when all agree."""
    assert exact_tests.sign_flip_p(DRAWS.uniform(0.1, 1, size=n)) == exact_tests.smallest_p("sign flips", n) == 2 / 2**n
    assert exact_tests.sign_flip_p(DRAWS.uniform(0.1, 1, size=n), 1) == exact_tests.smallest_p("sign flips", n, 1)


@pytest.mark.parametrize("n", [2, 3, 5, 7])
@pytest.mark.parametrize(("sides", "name"), [(1, "greater"), (2, "two-sided")])
def test_permutations(n: int, sides: int, name: str) -> None:
    """Permutations of two arms are those of scipy, with ties as well, and of 0 and 1 they are Fisher's test."""

    def means_apart(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return a.mean(axis) - b.mean(axis)

    for a, b in (DRAWS.normal(size=(2, n)), np.round(DRAWS.normal(size=(2, n)), 1)):
        theirs = stats.permutation_test((a, b), means_apart, n_resamples=np.inf, vectorized=True, alternative=name)
        assert exact_tests.permutation_p(a, b, sides) == pytest.approx(float(theirs.pvalue), abs=1e-12)
    assert exact_tests.permutation_p(np.arange(n) + 1.0 * n, np.arange(n) * 1.0, sides) == exact_tests.smallest_p(
        "permutations", n, sides
    )
    solved = np.arange(n) < n - 1
    assert exact_tests.permutation_p(solved * 1.0, np.zeros(n)) == pytest.approx(exact_tests.fisher_p(n - 1, 0, n))


@pytest.mark.parametrize(("m", "expected"), [(1, (4, 6)), (2, (5, 7)), (5, (5, 8)), (10, (6, 9)), (20, (6, 10))])
def test_fewest_seeds(m: int, expected: tuple[int, int]) -> None:
    """The fewest seeds for any verdict on m variants, and the fewest with which pairs are used."""
    alpha = 0.05 / m
    assert (exact_tests.fewest_seeds(alpha), exact_tests.fewest_seeds(alpha, test="sign flips")) == expected
    least, before = (exact_tests.smallest_p("permutations", n) for n in (expected[0], expected[0] - 1))
    assert least <= alpha < before


@pytest.mark.parametrize(("solved", "n", "margin"), [((6, 6), 6, 0.5), ((9, 8), 10, 0.5), ((2, 3), 12, 0.45)])
def test_equivalent_shares(solved: tuple[int, int], n: int, margin: float) -> None:
    """The chance of a share test, by enumeration, stays below its p at every pair of shares the margin apart; the
    interval ends where the test does."""
    p = exact_tests.share_equivalence_p(*solved, n, margin)
    counts = range(n + 1)
    rejected = np.array([[exact_tests.share_equivalence_p(a, b, n, margin) <= p for b in counts] for a in counts])
    for base in np.linspace(0, 1 - margin, 23):
        for a, b in ((base, base + margin), (base + margin, base)):
            chance = stats.binom.pmf(counts, n, a) @ rejected @ stats.binom.pmf(counts, n, b)
            assert chance <= p * 1.001 + 1e-9
    low, high = exact_tests.share_interval(*solved, n, 2 * p)
    assert max(-low, high) == pytest.approx(margin, abs=2e-3)


@pytest.mark.parametrize(
    ("n", "family", "effect"), [(3, 5, 7.32), (2, 1, 11.55), (4, 10, 4.71), (5, 20, 3.78), (30, 1, 0.5292)]
)
def test_power_far_tail(n: int, family: int, effect: float) -> None:
    """Right to 1 % also where the noncentral t of scipy gives up; the effects were computed by integration elsewhere,
    and the power at them is what simulation says."""
    alpha = 0.05 / family
    assert power.detectable_effect(n, alpha) == pytest.approx(effect, rel=2e-3)
    d = np.random.default_rng(n).normal(effect, 1.0, size=(40_000, n))
    assert np.mean(ours.t_p(d) <= alpha) == pytest.approx(0.8, abs=0.008)  # four standard errors


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("family", [1, 5, 20])
def test_power_by_integration(n: int, family: int) -> None:
    """Against the integral over the spread, by another rule than ours."""
    alpha = 0.05 / family
    effect, critical = power.detectable_effect(n, alpha), stats.t.ppf(1 - alpha / 2, n - 1)

    def missed(q: float) -> float:
        s = math.sqrt(stats.chi2.ppf(q, n - 1) / (n - 1))
        shift = effect * math.sqrt(n)
        return float(stats.norm.cdf(critical * s - shift) - stats.norm.cdf(-critical * s - shift))

    step = min(0.999, float(stats.chi2.cdf((n - 1) * (effect * math.sqrt(n) / critical) ** 2, n - 1)))
    assert 1 - integrate.quad(missed, 0, 1, points=[step], limit=200)[0] == pytest.approx(0.8, abs=1e-4)
    moved = power.equivalence_power(n, alpha, effect)
    d = np.random.default_rng(n).normal(size=(20_000, n))
    assert moved == pytest.approx(float(np.mean(ours.t_equivalence_p(d, effect) <= alpha)), abs=0.013)


def test_drawn_sign_flips() -> None:
    """Beyond forty seeds drawn patterns come close to the t-test."""
    d = DRAWS.normal(0.3, size=60)
    assert exact_tests.sign_flip_p(d) == pytest.approx(float(ours.t_p(d)), abs=0.01)


@pytest.mark.parametrize("n", [3, 5, 6, 8, 10])
def test_power_is_statsmodels(n: int) -> None:
    """Power and detectable effects are those of statsmodels."""
    assert power.power(n, 0.05, 1.3) == pytest.approx(TTestPower().power(1.3, n, 0.05), rel=1e-6)
    effect = power.detectable_effect(n, 0.05)
    assert effect == pytest.approx(TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8), rel=1e-4)


def test_detectable_effects() -> None:
    """In standard deviations of the differences, at 80 % power."""
    found = [round(power.detectable_effect(n, 0.05), 2) for n in (3, 5, 6, 8, 10)]
    assert found == pytest.approx([3.35, 1.70, 1.45, 1.20, 1.05], abs=0.1)


@pytest.mark.parametrize("effect", [0.2, 0.5, 1.0, 3.0])
def test_seeds_to_tell(effect: float) -> None:
    """The seeds that would tell are the fewest with the power."""
    n, low, high = power.seeds_to_tell(effect, 1.0, 5, 0.05)
    theirs = math.ceil(TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8) - 1e-6)
    assert n == max(4, theirs) and low is not None and high is not None  # with less than four, no verdict is possible
    assert low <= n < high
    if n > 4:
        assert power.power(n, 0.05, effect) >= 0.8 > power.power(n - 1, 0.05, effect)
    sd = math.sqrt(4 / stats.chi2.ppf(0.025, 4))  # five seeds with a spread of 1 may come from one with this
    assert high == power.seeds_to_tell(effect, sd, 5, 0.05).as_seen


def test_no_number_of_seeds() -> None:
    """No number of seeds is named where none is worth it."""
    assert power.seeds_to_tell(1e-4, 1.0, 6, 0.05) == (None, None, None)


def test_seeds_for_equivalence() -> None:
    """The seeds that would be equivalent are so 4 times in 5."""
    n = power.seeds_to_be_equivalent(0.5, 1.0, 6, 0.05).as_seen
    assert n is not None
    d = np.random.default_rng(3).normal(size=(20_000, n))
    assert np.mean(ours.t_equivalence_p(d, 0.5) <= 0.05) == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize(("solved", "n"), [(0, 5), (3, 5), (5, 5), (17, 40)])
def test_wilson_is_that_of_statsmodels(solved: int, n: int) -> None:
    assert tuple(ours.wilson(solved, n, 0.05)) == pytest.approx(
        proportion_confint(solved, n, method="wilson"), abs=1e-9
    )


def test_bca_needs_ten_differences() -> None:
    with pytest.raises(ValueError, match="it needs 10"):
        ours.bca_interval(np.ones(9), 0.05)
    d = DRAWS.normal(size=200)
    low, high = ours.bca_interval(d, 0.05)
    assert (low, high) == pytest.approx(tuple(map(float, ours.t_interval(d, 0.05))), abs=0.03)  # of normal differences


def test_kaplan_meier_median() -> None:
    """Half of the seeds by the curve of Kaplan and Meier."""
    assert ours.median_steps([10, 20, 30], []) == 20
    assert ours.median_steps([10], [100, 100]) is None  # two of three never did
    # By hand: 1 - 1/4 = 0.75 at 10; one given up at 15; 0.75 (1 - 1/2) = 0.375 at 20.
    assert ours.median_steps([10, 20], [15, 100]) == 20
    assert ours.median_steps([], [100]) is None


def test_interquartile_mean() -> None:
    """The interquartile mean leaves out a quarter at each end."""
    assert ours.interquartile_mean([np.array([0.0, 1, 2, 3]), np.array([100.0, 4, 5, -50])]) == np.mean([1, 2, 3, 4])


def test_probability_of_improvement() -> None:
    """The probability of improvement counts pairs and half of ties."""
    a, b = [np.array([1.0, 2]), np.array([0.0])], [np.array([1.0, 0]), np.array([1.0])]
    by_hand = np.mean([np.mean([0.5, 1, 1, 1]), 0.0])
    assert ours.probability_of_improvement(a, b) == pytest.approx(by_hand)


def test_stratified_bootstrap() -> None:
    """The stratified bootstrap draws each task from itself."""
    tasks = [np.full(4, 1.0), np.full(4, 3.0)]  # nothing moves within a task, so nothing may move at all
    assert ours.stratified_bootstrap(ours.interquartile_mean, tasks, alpha=0.05) == (2.0, 2.0)
    spread = [DRAWS.normal(size=300)]
    low, high = ours.stratified_bootstrap(lambda group: float(np.mean(group[0])), spread, alpha=0.05)
    assert (low, high) == pytest.approx(tuple(map(float, ours.t_interval(spread[0], 0.05))), abs=0.03)


def test_pairing_removes_what_is_shared() -> None:
    shared, own = DRAWS.normal(size=400), DRAWS.normal(scale=0.1, size=(2, 400))
    found = ours.pairing(shared + own[0], shared + own[1])
    assert found.correlation == pytest.approx(1 / 1.01, abs=0.01)
    assert found.variance_removed == pytest.approx(1 / 1.01, abs=0.01)
    assert ours.pairing(np.ones(3), np.arange(3.0)) == (None, None)


@pytest.mark.parametrize("n", [3, 5, 6, 10])
def test_interval_coverage(n: int) -> None:
    """The interval covers the truth as often as it says."""
    d = np.random.default_rng(n).normal(0.3, 1.0, size=(40_000, n))
    low, high = ours.t_interval(d, 0.05)
    assert np.mean((low <= 0.3) & (high >= 0.3)) == pytest.approx(0.95, abs=0.005)  # 1.5 points is what is asked


def test_noise_band_coverage() -> None:
    """The noise band holds the baseline against itself as often as it says."""
    draws = np.random.default_rng(5).normal(size=(4000, 2, 6))
    inside = [abs(a.mean() - b.mean()) <= ours.noise_band(a, 6, 0.05) for a, b in draws]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)
