"""The page says what is read and tested, and nothing else."""

from docs.imports import PAGE, page, rows
from tests.interchange.tiny import TYPES

from attnlab.interchange.families.registry import ALL, FAMILIES


def test_page_is_current() -> None:
    """`python -m docs.imports` would change nothing."""
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text
    assert page(text.replace("| llama |", "| lama |")) == text


def test_every_type_is_tested() -> None:
    """Each family has an entry in the table of tests, and a name of its own."""
    assert {model_type for model_type, _ in TYPES.values()} == {*FAMILIES}
    assert len(FAMILIES) == len(ALL) == len(rows())


def test_count_of_types() -> None:
    """The README and the first page say how many types there are."""
    for each in (PAGE.parents[1] / "README.md", PAGE.with_name("start.md")):
        assert f"{len(FAMILIES)} types, exactly" in each.read_text(encoding="utf-8")
