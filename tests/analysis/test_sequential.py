"""Verdicts after each seed: their error at any stopping time, what they need, and what they save."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.analysis.folders import write_arm
from tests.analysis.test_level import ALPHA, LAWS, RULES, SHARE, TOLERANCE, design

import attnlab
from attnlab.analysis import power
from attnlab.analysis.analyse import analyse
from attnlab.analysis.compare_arms import compare
from attnlab.analysis.report.content import document
from attnlab.analysis.report.publish import write
from attnlab.analysis.sequential import confidence_interval, fewest_seeds, sequential_equivalence_p, wealth
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.status import Status

IN_ORDER = RULES._replace(sequential=True)


def differences(law: str, m: int, n: int, count: int, seed: int = 0) -> np.ndarray:
    """The paired differences of so many families without a true one."""
    rng = np.random.default_rng([seed, m, n])
    results = np.stack([LAWS[law](rng, (m + 1, n)) for _ in range(count)])
    return results[:, 1:] - results[:, :1]


def ever(d: np.ndarray, alpha: float = ALPHA) -> np.ndarray:
    """Whether a family of differences held a verdict after any of its seeds, at alpha over the family."""
    target = d.shape[1] / alpha
    return (wealth(d, target).max(axis=-1) >= target).any(axis=-1)


@pytest.mark.parametrize("law", LAWS)
def test_level(law: str) -> None:
    """Over all laws, with a look after each of 40 seeds: the chance of a false verdict is at most alpha."""
    for m, count in ((1, 2000), (5, 400)):
        assert ever(differences(law, m, 40, count)).mean() <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / count) ** 0.5


def test_fixed_test_at_every_seed() -> None:
    """The t test, asked after every seed, breaks the promise: what the bets are for."""
    d = differences("normal", 1, 40, 400)[:, 0]
    p = np.stack([stats.ttest_1samp(d[:, :n], 0, axis=1).pvalue for n in range(4, 41)])
    assert (p <= ALPHA).any(axis=0).mean() > 3 * ALPHA


def test_exact() -> None:
    """Over all patterns of signs, the wealth is 1 on the mean whatever the sizes, at every seed; with lost seeds it is
    less."""
    sizes = np.array([0.3, 5.0, 0.01, 1.0, 1.0, 2.0, 0.5, 0.0])
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 8)).reshape(8, -1).T
    for sides in (1, 2):
        assert wealth(sizes * signs, 20.0, sides).mean(axis=0) == pytest.approx(np.ones(8))
    lost = sizes * signs
    lost[:, 2] = np.nan
    assert (wealth(lost, 20.0).mean(axis=0)[2:] < 1).all() and (wealth(lost, 20.0) >= 0).all()


@pytest.mark.parametrize(("alpha", "fewest"), [(0.05, 6), (0.05 / 10, 9), (0.05 / 2, 7), (0.01, 8)])
def test_fewest(alpha: float, fewest: int) -> None:
    """No bets at even odds could speak sooner: 2 to the n is the most that n wins make, in either direction half."""
    assert fewest_seeds(alpha) == fewest
    assert 2.0 ** (fewest - 2) * alpha < 1


def test_stays() -> None:
    """A verdict that was given is not taken back by later seeds, and later seeds enter in their order alone."""
    rng = np.random.default_rng(3)
    results = rng.normal(size=(2, 15)) * 0.3 + np.array([0, 1.0])[:, None]
    verdicts = []
    for n in range(2, 16):
        (c,) = compare(design(results[:, :n]).pairs(), IN_ORDER)
        verdicts.append(c.verdict == "worse")
    first = verdicts.index(True)
    assert all(verdicts[first:]) and 4 <= first <= 8
    results[1, 3] = np.nan
    (waits,) = compare(design(results, Status.RUNNING).pairs(), IN_ORDER)
    assert (waits.seeds, waits.lost_seeds, waits.verdict) == ([0, 1, 2], [], "cannot tell")
    (fails,) = compare(design(results, Status.FAILED).pairs(), IN_ORDER)
    assert (fails.n, fails.lost_seeds) == (14, [3])


def test_lost_runs_cost() -> None:
    """Runs of a variant are lost where they are bad: a flattered variant gets no verdict from that."""
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(40):
        results = rng.normal(size=(2, 12))
        results[1][results[1] > 0.7] = np.nan
        wrong += compare(design(results).pairs(), IN_ORDER)[0].verdict != "cannot tell"
    assert wrong / 40 <= ALPHA + TOLERANCE


def test_interval() -> None:
    """At the seed at which one stops because there is a verdict, and at the last, the interval holds the truth."""
    rng, held, count = np.random.default_rng(5), 0, 150
    for _ in range(count):
        d = rng.normal(size=25) + 0.8
        reached = wealth(d, 1 / ALPHA) >= 1 / ALPHA
        n = int(reached.argmax()) + 1 if reached.any() else len(d)
        interval = confidence_interval(d[:n], ALPHA)
        held += interval is None or interval.low <= 0.8 <= interval.high
        if reached.any():
            assert interval is not None and (interval.low > -0.01 or interval.high < 0.01)
    assert held / count >= 1 - ALPHA
    assert confidence_interval(rng.normal(size=5), ALPHA) is None  # five seeds rule nothing out
    assert sequential_equivalence_p(rng.normal(size=12) * 0.01, 1.0, ALPHA) == pytest.approx(ALPHA)
    assert sequential_equivalence_p(rng.normal(size=12) * 0.01 + 2, 1.0, ALPHA) == 1.0


def test_other_kinds() -> None:
    """Tasks that are solved or not, steps that were never reached, and numbers from elsewhere."""
    solved = np.array([[1.0] * 7, [0.2] * 7])
    shares = IN_ORDER._replace(bounds=SHARE, lower_is_better=False)
    (c,) = compare(design(solved, solved_at=0.99).pairs(), shares)
    assert (c.verdict, c.solved, c.exact_test) == ("worse", (0.99, 0, 7, 7), "bets on signs")
    steps = np.array([[10.0, 20, 30, 40, 50, 60, 70], [np.inf] * 7])
    (c,) = compare(design(steps).pairs(), IN_ORDER._replace(censored=True))
    assert (c.verdict, c.mean, c.interval) == ("worse", None, None)
    baseline = {seed: 2.0 + 0.01 * seed for seed in range(6)}
    ours = {seed: 3.0 - 0.01 * seed for seed in range(6)}
    typed = attnlab.verdict(baseline, {"x": ours}, sequential=True)["x"]
    assert typed.verdict == "worse" and typed.remarks == ("known after 6 of 6 seeds",)


def test_report(tmp_path: Path) -> None:
    """What was declared before the first result is judged in order; more seeds than were declared are explored."""
    for name, loss in (("multi_head", 2.0), ("linear", 3.0)):
        write_arm(tmp_path, name, [loss + 0.01 * seed * len(name) for seed in range(7)])
    manifest = ExperimentFolder(tmp_path).manifest
    manifest.plan([], {"first": {"metric": "val/loss", "sequential": True, "seeds": 8}})
    report = analyse(tmp_path)
    write(report, document(report), tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert report.comparisons[0].word == "worse" and report.rules.sequential
    assert "arXiv 2310.01153" in text and "interval at any stop" in text and "up to 8 were declared" in text
    manifest.plan([], {"first": {"metric": "val/loss", "sequential": True, "seeds": 6}})
    assert analyse(tmp_path).comparisons[0].word == "worse, exploratory"


@pytest.mark.slow
@pytest.mark.parametrize(("effect", "most"), [(1.0, 40), (2.0, 40)])
def test_savings(effect: float, most: int) -> None:
    """Fewer seeds on the median than the fixed design of equal power takes."""
    n, chance = stopping(effect, most)
    fixed = next(seeds for seeds in range(2, 200) if power.power(seeds, ALPHA, effect) >= min(chance, 0.99))
    assert np.median(n) < max(fixed, 7)


def stopping(effect: float, most: int, m: int = 1, count: int = 2000) -> tuple[np.ndarray, float]:
    """With how many seeds one stops, and the chance of a verdict, for a difference of so many standard deviations."""
    d = np.random.default_rng(6).normal(size=(count, most)) + effect
    reached = wealth(d, m / ALPHA) >= m / ALPHA
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, most), float(reached.any(axis=1).mean())


OTHER_LAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
    "lognormal": lambda rng, shape: np.exp(rng.normal(size=shape)) - np.exp(0.5),
    "one run in ten is bad": lambda rng, shape: rng.normal(size=shape) + 10 * ((rng.random(shape) < 0.1) - 0.1),
}
"""Differences that are 0 on the mean and not symmetric, for which nothing is promised."""
