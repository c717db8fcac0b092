"""The figures of tests/house.py may shrink and not grow; a smaller one is written down here."""

import pytest
from tests import house

AT_MOST = {
    "lines of src, pages included": 28_924,
    "forwarding lines in attention/": 571,
    "longest file of attention/": 341,
    "modules at the top level": 24,
    "rooms": 33,
    "imports between rooms": 163,
    "floors of rooms": 10,
    "circles of rooms": 0,
    "circles of modules": 0,
    "config keys read by their text": 188,
    "rooms that name a file of a run": 1,
    "modules that no test imports": 42,
    "class names that stand twice": 8,
    "module names that stand twice": 10,
    "`found` bound": 90,
    "`made` bound": 26,
    "`said` bound": 9,
    "`kept` bound": 17,
    "`known` bound": 39,
    "`place` bound": 41,
    "`seen` bound": 30,
    "`words` bound": 75,
    "`wanted` bound": 26,
    "`told` bound": 10,
}
# Names that stand twice, until one of each is called something else.
CLASSES_TWICE = {"Axis", "Effect", "Heads", "Pairing", "Place", "Run", "Score"}
MODULES_TWICE = {"base", "cache", "costs", "maps", "memory", "metrics", "page", "report", "tasks", "terminal"}


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
    assert set(house.repeated_modules()) <= MODULES_TWICE


def test_figures_count() -> None:
    """Each way of counting, on a tree whose figures are plain."""
    pairs = {("cli", "training"), ("training", "data"), ("data", "files"), ("cli", "files")}
    assert house.floors(pairs) == 4 and house.circles(pairs) == []
    assert house.circles({*pairs, ("files", "data")}) == [["data", "files"]]
    assert house.floors({*pairs, ("files", "data")}) == 3
