"""The figures of tests/house.py may shrink and not grow; a smaller one is written down here."""

import pytest
from tests import house

AT_MOST = {
    "lines of src, pages included": 30_510,
    "forwarding lines in attention/": 4,
    "longest file of attention/": 187,
    "modules at the top level": 5,
    "rooms": 19,
    "imports between rooms": 100,
    "floors of rooms": 8,
    "circles of rooms": 0,
    "circles of modules": 0,
    "config keys read by their text": 198,
    "rooms that name a file of a run": 1,
    "modules that no test imports": 55,
    "class names that stand twice": 4,
    "module names that stand twice": 0,
    "`found` bound": 72,
    "`made` bound": 22,
    "`said` bound": 8,
    "`kept` bound": 13,
    "`known` bound": 30,
    "`place` bound": 35,
    "`seen` bound": 26,
    "`words` bound": 61,
    "`wanted` bound": 25,
    "`told` bound": 3,
}
# Names of classes that stand twice, until one of each is called something else.
CLASSES_TWICE = {"Heads", "Place", "Score", "Step"}


@pytest.fixture(scope="module")
def figures() -> dict[str, int]:
    return dict(house.figures())


@pytest.mark.parametrize("name", AT_MOST)
def test_figure(name: str, figures: dict[str, int]) -> None:
    """Each at most its bound."""
    assert figures[name] <= AT_MOST[name]


def test_all_are_held(figures: dict[str, int]) -> None:
    """A figure without a bound would hold nothing."""
    assert set(figures) == set(AT_MOST)


def test_one_name_one_class() -> None:
    """A class name says which class it is."""
    assert set(house.repeated_classes()) <= CLASSES_TWICE


def test_one_name_one_module() -> None:
    """A module name says which module it is, wherever it lies."""
    assert house.repeated_modules() == []


def test_figures_count() -> None:
    """Each way of counting, on a tree whose figures are plain."""
    pairs = {("cli", "training"), ("training", "data"), ("data", "files"), ("cli", "files")}
    assert house.floors(pairs) == 4 and house.circles(pairs) == []
    assert house.circles({*pairs, ("files", "data")}) == [["data", "files"]]
    assert house.floors({*pairs, ("files", "data")}) == 3
