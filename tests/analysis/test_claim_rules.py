"""Rules of claims: formulas give the numbers they say, and a verdict errs no more often than it may."""

import math
from collections.abc import Sequence

import pytest

from attnlab.analysis.claim_rules import (
    ALPHA,
    FAILS,
    HOLDS,
    OPEN,
    Answer,
    check_name,
    fewest_seeds,
    judge,
    parse_condition,
    parse_measure,
)
from attnlab.errors import UsageError

MEASURES, ARMS = ["a", "b"], ["one", "two"]


def verdict(*rules: str, one: Sequence[float | None], two: Sequence[float | None] = ()) -> tuple[str, list[Answer]]:
    """Of arms whose measure `a` has these values, `b` twice as much; None is a lost run."""
    conditions = [parse_condition("rule", rule, MEASURES, ARMS) for rule in rules]
    arms = {"one": one, "two": two or one}
    return judge(conditions, {k: [None if x is None else {"a": x, "b": 2 * x} for x in v] for k, v in arms.items()})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("val/accuracy", 0.75),
        ("2 * [val/accuracy] - 1", 0.5),
        ("([floor/loss] - [val/loss]) / ([floor/loss] - 1)", 0.5),
        ("-[val/loss] / (2 - [floor/loss] + 1)", math.nan),
        ("[extrapolation_loss/x4] - [extrapolation_loss/x4] * 2", -7.0),
        ("max([val/loss], [floor/loss], 1) - min([val/loss], [floor/loss])", 1.0),
        ("exp(log([val/loss])) + abs(1 - [floor/loss])", 4.0),
        ("log(-[val/loss])", math.nan),
        ("max([val/loss], [val/loss] / ([val/loss] - 2))", math.nan),
        ("exp([val/loss] * 1000)", math.inf),
        ("[size/state_bytes] / [size/parameters] + [optim/grad_norm]", 2.5),
    ],
)
def test_measure(text: str, value: float) -> None:
    """A formula over metrics; one that divides by 0 is no number."""
    numbers = {"val/accuracy": 0.75, "val/loss": 2.0, "floor/loss": 3.0, "extrapolation_loss/x4": 7.0}
    numbers |= {"size/state_bytes": 8.0, "size/parameters": 4.0, "optim/grad_norm": 0.5}
    measure = parse_measure("m", text)
    assert measure.value(numbers) == pytest.approx(value, nan_ok=True)
    assert set(measure.metrics) <= set(numbers)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[val/loss", "[val/loss] ** 2", "f([val/loss])", "x + [val/loss]", "m7 + [val/loss]"),
        *(3, "3", "[]", "[[val/loss]]"),
        *("[val/loss] / 0", "[val/loss] - [val/loss]", "max([val/loss])", "log([val/loss], 2)", "[val/loss] + 1e999"),
        *("[ceiling/los]", "size/params", "+".join(["[val/loss]"] * 500), "val/loss:steps_to_x"),
    ],
)
def test_no_measure(text: object) -> None:
    with pytest.raises(UsageError, match=r"^key[ :]") as refused:
        parse_measure("key", text)
    assert len(str(refused.value)) < 400 and "m0" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a(one)",
            "a(one) == 1",
            "0 < a(one) < 1",
            "c(one) > 0",
            "a(three) > 0",
            "a(one, two) > 0",
            "a > 0",
            "1 +",
            7,
        ),
        *("share(a(one) > 1) > 0.5", "share(a(one) > 1) >= share(a(two) > 1)", "share(a(one)) > share(a(two))"),
        *(
            "share(a(one) > 1, 2) > share(a(two) > 1)",
            "share(share(a(one) > 1) > share(a(two) > 1)) > share(a(two) > 1)",
        ),
        *("1 < 3", "a(one) <= a(one)", "a(one) - a(one) > 0", "a(one) > 1e999", "max(a(one)) > 1", "a(arm=one) > 1"),
        *("a(one) >\n 1 +", "(" * 600 + "a(one)" + ")" * 600 + " > 1"),
    ],
)
def test_no_condition(text: object) -> None:
    with pytest.raises(UsageError, match=r"^key \(") as refused:
        parse_condition("key", text, MEASURES, ARMS)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["my-arm", "8k", "a b", "", "lambda", "share", "max"])
def test_no_name(name: str) -> None:
    """What a rule could not write is no name of an arm or a measure."""
    with pytest.raises(UsageError, match=r"^key: .* must be a name of letters"):
        check_name("key", name)
    check_name("key", "größe_2")


def test_most_runs() -> None:
    """All of 6 runs bear a condition out, 5 of 6 do not, 7 of 8 do; none of 6 refutes it. The p is that of the coin."""
    rule = "a(one) >= 0.9"
    answers = {n: verdict(rule, one=[1.0] * k + [0.0] * (n - k))[0] for n, k in ((6, 6), (61, 5), (8, 7))}
    assert answers == {6: HOLDS, 61: FAILS, 8: HOLDS}
    assert verdict(rule, one=[1.0] * 5 + [0.0])[0] == OPEN and verdict(rule, one=[0.0] * 6)[0] == FAILS
    (answer,) = verdict(rule, one=[1.0] * 7 + [0.0])[1]
    assert answer.p_holds == pytest.approx(9 / 256) and (answer.left, answer.right, answer.fulfilled) == (1.0, 0.9, 7)


def test_pairs() -> None:
    """A difference is one of runs with the same seed."""
    one, two = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    assert verdict("a(two) - a(one) > 0.4", one=one, two=two)[0] == HOLDS
    assert verdict("a(two) - a(one) > 0.4", one=one, two=two[::-1])[0] == OPEN
    assert verdict("b(one) - 2 * a(one) <= 0", one=one)[0] == HOLDS


def test_functions() -> None:
    """Of several runs of one seed a rule can take the best; one that is lost among them is no result."""
    one, two = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    assert verdict("max(a(one), a(two)) > 0.5", one=one, two=two)[0] == HOLDS
    assert verdict("abs(a(one) - a(two)) < 0.5", one=one, two=two)[0] == FAILS
    (answer,) = verdict("max(a(one), a(two)) > 0.5", one=one, two=[None, *two[1:]])[1]
    assert (answer.lost, answer.fulfilled) == (1, 5)


def test_shares() -> None:
    """Fisher's test, one-sided: 5 of 8 against none tells, 3 of 8 does not, and the other way round refutes."""
    rule = "share(a(one) >= 1) > share(a(two) >= 1)"

    def of(ours: int, theirs: int) -> tuple[str, list[Answer]]:
        return verdict(rule, one=[1.0] * ours + [0.0] * (8 - ours), two=[1.0] * theirs + [0.0] * (8 - theirs))

    assert [of(*counts)[0] for counts in ((5, 0), (3, 0), (8, 8), (0, 5))] == [HOLDS, OPEN, OPEN, FAILS]
    ours, theirs = [1.0] * 5 + [0.0] * 3, [0.0] * 8
    assert verdict("share(a(two) >= 1) < share(a(one) >= 1)", one=ours, two=theirs)[0] == HOLDS
    assert of(5, 0)[1][0].p_holds == pytest.approx(math.comb(8, 5) / math.comb(16, 5))


def test_lost_runs() -> None:
    """A run without a result speaks for neither answer."""
    assert verdict("a(one) > 0", one=[1.0] * 5 + [None])[0] == OPEN
    assert verdict("a(one) > 0", one=[-1.0] * 5 + [None])[0] == OPEN
    assert verdict("a(one) > 0", one=[None] * 6)[0] == OPEN
    (answer,) = verdict("a(one) > 0", one=[1.0] * 7 + [None])[1]
    assert answer.lost == 1 and answer.verdict == HOLDS


def test_all_conditions() -> None:
    """A claim holds if all its conditions do, and fails if one does, told from chance by as much as there are more."""
    six = [1.0] * 6
    assert verdict("a(one) > 0", "a(one) < 2", one=six)[0] == HOLDS
    assert verdict("a(one) > 0", "a(one) > 2", one=six)[0] == FAILS
    assert verdict("a(one) > 0", "a(one) > 2", "a(one) > 3", "a(one) > 4", one=six)[0] == OPEN
    assert [fewest_seeds([parse_condition("rule", "a(one) > 0", MEASURES, ARMS)] * n) for n in (1, 2, 3, 4)] == [
        5,
        6,
        6,
        7,
    ]


def test_level() -> None:
    """Over all patterns of coin tosses a claim is called true, and false, no more often than ALPHA; a bare majority
    would be too often."""
    n = 8
    verdicts = [verdict("a(one) > 0", one=[1.0] * k + [-1.0] * (n - k))[0] for k in range(n + 1)]
    for answer in (HOLDS, FAILS):
        chance = sum(math.comb(n, k) for k in range(n + 1) if verdicts[k] == answer) / 2**n
        assert 0 < chance <= ALPHA < sum(math.comb(n, k) for k in range(n // 2 + 1, n + 1)) / 2**n
