"""Pairs of results by seed, and the worst that lost runs may have been."""

import math

import numpy as np
import pytest

from attnlab.analysis import exact_tests
from attnlab.analysis.exact_tests import PERMUTATIONS, SIGN_FLIPS, ExactTest
from attnlab.analysis.samples import PlannedPairs, Sample, paired_seeds, values

RNG = np.random.default_rng(1)
NAN = math.nan


def test_paired_seeds() -> None:
    """A seed that only one side has was never planned for the other, or is lost where nobody told the plan."""
    ours = Sample("ours", {0: 1.0, 1: 1.0, 4: 1.0}, {2: "failed"})
    theirs = Sample("theirs", {0: 1.0, 2: 1.0, 5: 1.0}, {1: "diverged", 3: "failed"})
    assert paired_seeds(ours, theirs, is_planned=True) == ([0], [1, 2])
    assert paired_seeds(ours, theirs, is_planned=False) == ([0], [1, 2, 3, 4, 5])
    assert np.array_equal(values(ours, [4, 2, 0]), [1.0, NAN, 1.0], equal_nan=True)


def lossy(n: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Ours clearly higher, between 0 and 1; one run of ours is lost, and one of theirs."""
    ours, theirs = RNG.uniform(0.85, 0.95, n), RNG.uniform(0.05, 0.15, n)
    ours[1] = theirs[4] = NAN
    return ours, theirs


@pytest.mark.parametrize("test", [SIGN_FLIPS, PERMUTATIONS])
def test_worst_p_bounds_all(test: ExactTest) -> None:
    """Whatever lost runs would have come to within the bounds, the p is no larger, and at the worst it is this one."""
    ours, theirs = lossy()
    worst = PlannedPairs(ours, theirs, (0.0, 1.0)).worst_p(0.8, test)
    for a, b in RNG.uniform(size=(50, 2)):
        filled = np.nan_to_num(ours, nan=a), np.nan_to_num(theirs, nan=b)
        assert exact_tests.difference_p(*filled, test) <= worst
    assert worst == exact_tests.difference_p(np.nan_to_num(ours, nan=0.0), np.nan_to_num(theirs, nan=1.0), test)


def test_worst_p_either_way() -> None:
    """Swapping the sides changes nothing, and where the worst case turns the difference around its p is 1."""
    ours, theirs = lossy()
    for bounds in ((0.0, 1.0), None):
        one = PlannedPairs(ours, theirs, bounds).worst_p(0.8, SIGN_FLIPS)
        assert one == PlannedPairs(theirs, ours, bounds).worst_p(-0.8, SIGN_FLIPS) < 1
    assert PlannedPairs(np.array([0.6, NAN, NAN]), np.array([0.5, 0.5, 0.5]), (0.0, 1.0)).worst_p(0.1, SIGN_FLIPS) == 1


def test_equivalence_with_losses() -> None:
    """Without bounds a lost run is never close enough; with them both ways of having been bad are tried."""
    same = RNG.uniform(0.49, 0.51, size=(2, 12))
    whole = PlannedPairs(same[0], same[1], None).equivalence_p(0.3, SIGN_FLIPS)
    assert whole == exact_tests.equivalence_p(same[0], same[1], 0.3, SIGN_FLIPS) < 0.01
    ours = same[0].copy()
    ours[3] = NAN
    assert PlannedPairs(ours, same[1], None).equivalence_p(0.3, SIGN_FLIPS) == 1
    bounded = PlannedPairs(ours, same[1], (0.0, 1.0)).equivalence_p(0.3, SIGN_FLIPS)
    filled = [exact_tests.equivalence_p(np.nan_to_num(ours, nan=x), same[1], 0.3, SIGN_FLIPS) for x in (0, 0.5, 1)]
    assert whole < bounded == max(filled)


def test_solved() -> None:
    """A run of ours that is lost solved the task at one end and not at the other; theirs the other way around."""
    pairs = PlannedPairs(np.array([0.9, 0.2, NAN]), np.array([0.9, NAN, 0.99]), (0.0, 1.0))
    low, high = pairs.ends()
    assert (pairs.solved(0.9, low), pairs.solved(0.9, high)) == ((1, 3), (2, 2))
    assert pairs.lost.tolist() == [False, True, True]
