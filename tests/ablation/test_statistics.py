"""Statistics against other libraries, against enumeration, and against what simulation says they should do."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from attnlab.ablation import statistics as ours
from attnlab.ablation.comparison import BETTER, CANNOT_TELL, WORSE, decide

DRAWS = np.random.default_rng(7)


@pytest.mark.parametrize("n", [2, 3, 5, 11])
def test_the_paired_t_test_and_its_interval_are_those_of_scipy(n: int) -> None:
    a, b = DRAWS.normal(size=(2, n))
    theirs = stats.ttest_rel(a, b)
    low, high = ours.t_interval(a - b, 0.05)
    assert float(ours.t_p(a - b)) == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (float(low), float(high)) == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-9)


def test_equal_differences_have_no_spread_and_the_signs_decide() -> None:
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
    assert float(ours.equivalence_p(d, margin)) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_sign_flips_are_those_of_enumeration(n: int) -> None:
    for d in (DRAWS.normal(0.5, size=n), np.round(DRAWS.normal(size=n), 1)):  # rounded ones have ties
        patterns = np.array(list(itertools.product((-1, 1), repeat=n))) @ d
        share = np.mean(np.abs(patterns) >= abs(d.sum()) - 1e-9)
        assert ours.sign_flip_p(d) == pytest.approx(float(share), abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 10, 24])
def test_the_smallest_sign_flip_p_is_reached_when_all_agree(n: int) -> None:
    assert ours.sign_flip_p(DRAWS.uniform(0.1, 1, size=n)) == ours.smallest_sign_flip_p(n) == 2 / 2**n


def test_beyond_forty_seeds_drawn_patterns_come_close_to_the_t_test() -> None:
    d = DRAWS.normal(0.3, size=60)
    assert ours.sign_flip_p(d) == pytest.approx(float(ours.t_p(d)), abs=0.01)


@pytest.mark.parametrize("n", [3, 5, 6, 8, 10])
def test_power_and_detectable_effects_are_those_of_statsmodels(n: int) -> None:
    assert ours.power(n, 0.05, 1.3) == pytest.approx(TTestPower().power(1.3, n, 0.05), rel=1e-6)
    effect = ours.detectable_effect(n, 0.05)
    assert effect == pytest.approx(TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8), rel=1e-4)


def test_the_detectable_effects_of_the_design_page() -> None:
    """In standard deviations of the differences, at 80 % power."""
    found = [round(ours.detectable_effect(n, 0.05), 2) for n in (3, 5, 6, 8, 10)]
    assert found == pytest.approx([3.35, 1.70, 1.45, 1.20, 1.05], abs=0.1)


@pytest.mark.parametrize("effect", [0.2, 0.5, 1.0, 3.0])
def test_the_seeds_that_would_tell_are_the_fewest_with_the_power(effect: float) -> None:
    n = ours.seeds_to_tell(effect, 1.0, 0.05)
    assert n is not None
    assert ours.power(n, 0.05, effect) >= 0.8 > ours.power(n - 1, 0.05, effect)
    assert n == math.ceil(TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8) - 1e-6)


def test_no_number_of_seeds_is_named_where_none_is_worth_it() -> None:
    assert ours.seeds_to_tell(1e-4, 1.0, 0.05) is None
    assert ours.seeds_to_tell(0.0, 1.0, 0.05) is None
    assert ours.seeds_without_spread(0.05) == 6  # 2 / 2^6 is below 0.05, 2 / 2^5 is not


def test_the_seeds_that_would_be_equivalent_are_so_4_times_in_5() -> None:
    n = ours.seeds_to_be_equivalent(0.5, 1.0, 0.05)
    assert n is not None
    d = np.random.default_rng(3).normal(size=(20_000, n))
    assert np.mean(ours.equivalence_p(d, 0.5) <= 0.05) == pytest.approx(0.8, abs=0.015)


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


def test_half_of_the_seeds_by_the_curve_of_kaplan_and_meier() -> None:
    assert ours.median_steps([10, 20, 30], []) == 20
    assert ours.median_steps([10], [100, 100]) is None  # two of three never did
    # By hand: 1 - 1/4 = 0.75 at 10; one given up at 15; 0.75 (1 - 1/2) = 0.375 at 20.
    assert ours.median_steps([10, 20], [15, 100]) == 20
    assert ours.median_steps([], [100]) is None


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    assert ours.interquartile_mean([np.array([0.0, 1, 2, 3]), np.array([100.0, 4, 5, -50])]) == np.mean([1, 2, 3, 4])


def test_the_probability_of_improvement_counts_pairs_and_half_of_ties() -> None:
    a, b = [np.array([1.0, 2]), np.array([0.0])], [np.array([1.0, 0]), np.array([1.0])]
    by_hand = np.mean([np.mean([0.5, 1, 1, 1]), 0.0])
    assert ours.probability_of_improvement(a, b) == pytest.approx(by_hand)


def test_the_stratified_bootstrap_draws_each_task_from_itself() -> None:
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
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    d = np.random.default_rng(n).normal(0.3, 1.0, size=(40_000, n))
    low, high = ours.t_interval(d, 0.05)
    assert np.mean((low <= 0.3) & (high >= 0.3)) == pytest.approx(0.95, abs=0.005)  # 1.5 points is what is asked


@pytest.mark.parametrize("n", [3, 5, 10])
def test_ten_variants_that_do_nothing_are_called_different_no_more_often_than_stated(n: int) -> None:
    """A/A: the baseline and ten variants of equal quality, 2,000 sweeps; they share the baseline, as real ones do."""
    rng = np.random.default_rng(100 + n)
    baseline, variants = rng.normal(size=(2000, 1, n)), rng.normal(size=(2000, 10, n))
    d = 0.4 * (variants - baseline)
    p = ours.t_p(d)
    words = [
        {decide(float(m) < 0, h, None, 0.05) for m, h in zip(means, ours.holm(row.tolist()), strict=True)}
        for means, row in zip(d.mean(axis=-1), p, strict=True)
    ]
    either = np.mean([bool(w & {BETTER, WORSE}) for w in words])
    assert either <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)  # three standard errors of 2,000 sweeps
    assert np.mean([BETTER in w for w in words]) <= 0.05
    assert np.mean([w == {CANNOT_TELL} for w in words]) >= 0.93


def test_the_noise_band_holds_the_baseline_against_itself_as_often_as_it_says() -> None:
    draws = np.random.default_rng(5).normal(size=(4000, 2, 6))
    inside = [abs(a.mean() - b.mean()) <= ours.noise_band(a, 6, 0.05) for a, b in draws]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)
