"""The pages that are written from the configs and classes are those that lie here."""

import re
import shlex
import sys

import pytest
from docs.pictures import BUDGET, PANELS
from docs.variants import FAMILIES, PAGE, ROOT, Row, line, page, picture_of, row, rows
from PIL import Image
from tests.laws.cases import NAMES, drawn

from attnlab.cli import main as attnlab
from attnlab.config.compose import compose_config, config_dir
from attnlab.laws import LAWS


@pytest.fixture(scope="module")
def found() -> list[Row]:
    return list(rows())


def test_lines() -> None:
    """One variant in eight has the line that its config and classes say, and every variant has one."""
    text = PAGE.read_text(encoding="utf-8")
    for name in NAMES:
        assert f"\n| `{name}` | " in text, "run: make docs"
        if drawn((name,), 8):
            it = row(config_dir() / "attention" / f"{name}.yaml")
            assert f"\n{line(it)}\n" in text, "run: make docs"
            assert line(it._replace(sentence="Something else.")) not in text
            check(it)


def check(it: Row) -> None:
    """A row has a sentence, a formula and costs that grow."""
    assert len(it.sentence.split()) >= 3 and it.family in FAMILIES, it
    assert re.search(r"= \S", it.formula), it
    assert it.costs[0].forward_flops < it.costs[1].forward_flops, it


@pytest.mark.slow
def test_the_pages_of_variants_are_current(found: list[Row]) -> None:
    assert page(found) == PAGE.read_text(encoding="utf-8"), "run: make docs"
    assert [row.name for row in found] == NAMES
    for it in found:
        check(it)


@pytest.mark.slow
def test_a_page_that_is_out_of_date_differs(found: list[Row]) -> None:
    changed = [found[0]._replace(sentence="Something else."), *found[1:]]
    assert page(changed) != page(found)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_families(family: str, found: list[Row]) -> None:
    """Every family has a picture of two to four of its own layers."""
    file, own = picture_of(family), {row.name for row in found if row.family == family}
    assert 2 <= len(PANELS[family]) <= 4 and {panel.variant for panel in PANELS[family]} <= own
    assert file.stat().st_size < BUDGET
    with Image.open(file) as picture:
        picture.load()
        assert picture.format == "PNG" and 600 <= picture.width <= 1000
    assert f"({file.relative_to(PAGE.parent).as_posix()})" in PAGE.read_text(encoding="utf-8")


def test_commands_of_scaling_compose() -> None:
    """Every command of the page is one that can be typed, from a single core to many processes."""
    text = (PAGE.parent / "scaling.md").read_text(encoding="utf-8")
    typed = [shlex.split(line, comments=True) for line in re.findall(r"train\.py (.*)", text)]
    single = [words for words in typed if "-m" not in words]
    processes = set()
    for words in single:
        trainer = compose_config(words).trainer
        processes.add((trainer.strategy, trainer.devices * trainer.nodes))
    assert {("auto", 1), ("ddp", 2), ("fsdp", 4), ("ddp", 8)} <= processes and len(typed) > len(single) >= 8


@pytest.mark.parametrize(
    "laws", ["shape,causality,map,decode,stated_formula,explains_itself", pytest.param("", marks=pytest.mark.slow)]
)
def test_layer_worked_out(laws: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer of docs/own.md keeps the laws, its formula among them, by the command that stands there."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (typed,) = re.findall("^attnlab (check attention=moving_average .*)$", (ROOT / "docs/own.md").read_text(), re.M)
    attnlab([*typed.split(), f"laws={laws}"])
    verdicts = dict(row.split()[:2] for row in capsys.readouterr().out.splitlines() if re.match("  [a-z]", row))
    assert [*verdicts] == (laws.split(",") if laws else list(LAWS)) and "broken" not in verdicts.values()
    assert verdicts["stated_formula"] == "kept"
