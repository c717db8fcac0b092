"""The pages that are written from the configs and classes are those that lie here."""

import re

import pytest
from docs.pictures import BUDGET, PANELS
from docs.variants import FAMILIES, PAGE, README, Row, page, picture_of, readme, rows
from PIL import Image

from attnlab.config.compose import config_dir

NAMES = sorted(file.stem for file in (config_dir() / "attention").glob("*.yaml"))


@pytest.fixture(scope="module")
def found() -> list[Row]:
    return list(rows())


def test_the_page_of_variants_is_current(found: list[Row]) -> None:
    assert page(found) == PAGE.read_text(encoding="utf-8"), "run: make docs"


def test_the_table_of_the_readme_is_current(found: list[Row]) -> None:
    text = README.read_text(encoding="utf-8")
    assert readme(found, text) == text, "run: make docs"


def test_every_variant_has_a_row_with_a_sentence_a_formula_and_a_source(found: list[Row]) -> None:
    assert [row.name for row in found] == NAMES
    for row in found:
        assert len(row.sentence.split()) >= 3 and row.family in FAMILIES, row
        assert re.search(r"= \S", row.formula), row
        assert row.costs[0].forward_flops < row.costs[1].forward_flops, row


def test_a_page_that_is_out_of_date_differs(found: list[Row]) -> None:
    changed = [found[0]._replace(sentence="Something else."), *found[1:]]
    assert page(changed) != page(found)
    assert readme(changed, README.read_text(encoding="utf-8")) != readme(found, README.read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_picture_of_two_to_four_of_its_own_layers(family: str, found: list[Row]) -> None:
    file, own = picture_of(family), {row.name for row in found if row.family == family}
    assert 2 <= len(PANELS[family]) <= 4 and {panel.variant for panel in PANELS[family]} <= own
    assert file.stat().st_size < BUDGET
    with Image.open(file) as picture:
        picture.load()
        assert picture.format == "PNG" and 600 <= picture.width <= 1000
    assert f"({file.relative_to(PAGE.parent).as_posix()})" in PAGE.read_text(encoding="utf-8")
