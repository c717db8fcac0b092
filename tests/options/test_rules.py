"""What a key may hold, and numbers as they are typed."""

import pytest

from attnlab.errors import UsageError
from attnlab.options.rules import NATURAL, POSITIVE, Rule, parse_integers, refusal


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", [0]), ("2,0", [0, 2]), ("[1-3]", [1, 2, 3]), ("0 4-5", [0, 4, 5]), ("7,7", [7]), ("3-3", [3])],
)
def test_integers_and_ranges(text: str, expected: list[int]) -> None:
    """Whole numbers are typed singly or as a range."""
    assert parse_integers("heads", text, most=9, like="0,2") == expected


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "1.5", "0-10", "1-", "0-1000000000000"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_integers("heads", text, most=9, like="0,2")
    assert str(refused.value) == f"heads ({text}) must be integers of at most 9, such as 0,2"


def test_endless_range() -> None:
    """A range does not stand for endless numbers."""
    with pytest.raises(UsageError, match=r"seeds \(0-1000000000000\) must be integers"):
        parse_integers("seeds", "0-1000000000000", most=10**18, like="0,2")


@pytest.mark.parametrize("text", ["", "[]", " , "])
def test_nothing_is_no_number(text: str) -> None:
    with pytest.raises(UsageError, match="must name at least one integer, such as 0,2"):
        parse_integers("heads", text, most=9, like="0,2")


@pytest.mark.parametrize("rule", [NATURAL, POSITIVE])
def test_more_digits_than_a_machine_has(rule: Rule) -> None:
    """An integer that no machine counts to is refused wherever a number may stand, in a line of bounded length."""
    assert rule.accepts(10**18) and not rule.accepts(10**19) and not rule.accepts(10**400)
    line = refusal("batch_size", 10**400, rule)
    assert line.startswith("batch_size (10000000000000000000... of 401 digits) must be") and len(line) < 200
