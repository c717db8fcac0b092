"""Main effects and interactions of designs whose truth is known."""

import itertools

import numpy as np
import pytest
from scipy import stats
from tests.analysis.in_memory import make_arm

from attnlab.analysis.arms import Arm
from attnlab.analysis.effects import factor_of, factorial, level_of

SEEDS = 4
WIDE = np.array([[0.0] * 8] * 2 + [[0.1, 0.1, 0.2, 9.0, 0.1, 0.3, 0.1, 0.2]] * 2)
NOISE = np.random.default_rng(3).normal(0, 0.1, size=(8, SEEDS))


def arm_at(signs: tuple[int, ...], i: int, truth: float) -> Arm:
    settings = {f"model.{name}": value for name, value in zip("abc", signs, strict=False)}
    return make_arm([truth + noise for noise in NOISE[i]], settings)


def test_two_by_two() -> None:
    """A main effect is a difference of means, an interaction a difference of differences; intervals are those of t."""
    arms = [
        arm_at((a, b), i, 5 + 2 * a - b + 3 * a * b) for i, (a, b) in enumerate(itertools.product((0, 1), repeat=2))
    ]
    effects = factorial(arms, arms[0], 0.05)
    assert effects is not None and effects.aliased == [] and effects.seeds == [*range(SEEDS)]
    by_seed = np.array([[arm.results[seed] for seed in range(SEEDS)] for arm in arms])
    one, b, a, ab = by_seed
    expected = [(a + ab - one - b) / 2, (b + ab - one - a) / 2, ab - a - b + one]
    for effect, each in zip(effects.effects, expected, strict=True):
        test = stats.ttest_1samp(each, 0)
        assert effect.mean == pytest.approx(each.mean())
        assert test.pvalue < 0.02 and effect.p == 2 / 2**SEEDS  # four seeds have no smaller one, whatever t says
        assert tuple(effect.interval) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert [effect.mean for effect in effects.effects] == pytest.approx([3.5, 0.5, 3], abs=0.2)
    assert [effect.kind for effect in effects.effects] == ["main", "main", "interaction"]
    assert effects.effects[0].name == "a: 1 instead of 0"


def test_the_larger_p() -> None:
    """From six seeds on the t test may ask for more than the signs do."""
    arms = [make_arm(list(row), {"a": a, "b": b}) for row, a, b in zip(WIDE, (0, 0, 1, 1), (0, 1, 0, 1), strict=True)]
    effects = factorial(arms, arms[0], 0.05)
    assert effects is not None
    main = (WIDE[2] + WIDE[3] - WIDE[0] - WIDE[1]) / 2
    (of_a,) = (effect for effect in effects.effects if effect.name == "a: 1 instead of 0")
    assert all(main > 0) and of_a.p == pytest.approx(stats.ttest_1samp(main, 0).pvalue) and of_a.p > 2 / 2**8


def test_aliases() -> None:
    """In the half of 2^3 that C=AB leaves, a pair is the column of the third: it is listed, not guessed."""
    signs = [(a, b, a ^ b ^ 1) for a, b in itertools.product((0, 1), repeat=2)]
    arms = [arm_at(each, i, sum(each)) for i, each in enumerate(signs)]
    effects = factorial(arms, arms[0], 0.05)
    assert effects is not None and len(effects.effects) == 3
    assert len(effects.aliased) == 3 and all(" with " in name for name in effects.aliased)


def test_too_little() -> None:
    """One choice at a time tells of no pair, and one seed of no spread."""
    one_each = [arm_at(signs, i, 0) for i, signs in enumerate([(0, 0), (1, 0), (0, 1)])]
    assert factorial(one_each, one_each[0], 0.05) is None
    one_seed = [make_arm([1.0], {"a": a, "b": b}) for a in (0, 1) for b in (0, 1)]
    assert factorial(one_seed, one_seed[0], 0.05) is None


def test_factors() -> None:
    """A slot that all have is a factor; one that some have follows from the choice of the attention."""
    mask = {"attention.mask._target_": "x.Causal", "attention.mask.width": 4}
    softmax = make_arm([1.0], {"attention._target_": "x.Softmax", **mask, "attention.scale.s": 1.0}, "softmax")
    linear = make_arm([1.0], {"attention._target_": "x.Linear", **mask, "optimizer.lr": None}, "linear+relu")
    arms = [softmax, linear]
    assert factor_of("attention.mask.width", arms) == "attention/mask"
    assert factor_of("attention.scale.s", arms) == "attention"
    assert factor_of("attention._target_", arms) == "attention"
    assert factor_of("attention.n_kv_heads", [softmax, softmax]) == "attention.n_kv_heads"
    assert factor_of("position.inside._target_", arms) == "position"
    assert factor_of("attention.position.base", arms) is None
    assert [level_of(linear, f) for f in ("attention", "attention/mask", "optimizer.lr")] == [
        *("linear", "Causal width=4", "null")
    ]
