"""The figures of tests/house.py may shrink and not grow; a smaller one is written down here."""

import ast

import pytest
from tests import house

AT_MOST = {
    "lines of src, pages included": 59_113,
    "forwarding lines in attention/": 9,
    "longest file of attention/": 199,
    "modules at the top level": 5,
    "rooms": 20,
    "imports between rooms": 105,
    "floors of rooms": 8,
    "circles of rooms": 0,
    "circles of modules": 0,
    "config keys read by their text": 4,
    "rooms that name a file of a run": 1,
    "modules that no test imports": 0,
    "class names that stand twice": 0,
    "module names that stand twice": 0,
}


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
    assert house.repeated_classes() == []


def test_names_say_what_a_value_is() -> None:
    """A participle or a word for anything says how a value came about, and not what it is."""
    bound = {module: house.banned_names(every) for module, every in house.nodes().items()}
    assert {module: names for module, names in bound.items() if names} == {}


@pytest.mark.parametrize(
    "code",
    [
        "found = 1",
        "one, (made, other) = pair",
        "said: int",
        "def f(*, kept): ...",
        "lambda known: 0",
        "for place in range(3): ...",
        "[x for seen in y]",
        "with open(path) as words: ...",
        "self.wanted = 1",
        "(told := 1)",
        "def found(): ...",
        "from x import y as made",
    ],
)
def test_names_bound(code: str) -> None:
    """Every way of binding a name is looked at; reading one that somebody else has chosen is none."""
    assert len(house.banned_names(ast.walk(ast.parse(code)))) == 1
    assert house.banned_names(ast.walk(ast.parse("x = other.found(known=made)"))) == []


def test_names_of_tests() -> None:
    """A test can be called by its name; its sentence stands in the docstring."""
    assert house.long_test_names(house.trees_of_tests()) == []
    assert house.long_test_names([ast.parse(f"def test_{'a' * 46}(): ...\ndef test_{'a' * 45}(): ...")]) == [
        f"test_{'a' * 46}"
    ]


def test_one_name_one_module() -> None:
    """A module name says which module it is, wherever it lies."""
    assert house.repeated_modules() == []


def test_figures_count() -> None:
    """Each way of counting, on a tree whose figures are plain."""
    pairs = {("cli", "training"), ("training", "data"), ("data", "files"), ("cli", "files")}
    assert house.floors(pairs) == 4 and house.circles(pairs) == []
    assert house.circles({*pairs, ("files", "data")}) == [["data", "files"]]
    assert house.floors({*pairs, ("files", "data")}) == 3
