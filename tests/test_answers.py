"""What commands say on docs/path.md and docs/questions is what they say now."""

import re
from pathlib import Path

import pytest
from docs.answers import BLOCK, INDEX, PAGES, PATH, answered

from attnlab.explain.numbers import MINUS
from attnlab.explain.terminal import DROPPED

DIGITS = 2e-4  # of numbers with four decimals, which another machine may round in another way
NUMBER = re.compile(rf"[{MINUS}-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def blocks(text: str) -> list[tuple[str, str]]:
    """The kind and the text of each output."""
    return [(match[3], match[4]) for match in BLOCK.finditer(text)]


def same(kind: str, one: str, other: str) -> bool:
    """Words as they are, numbers but for rounding; those that are drawn by chance are not compared."""
    if kind != "text":
        drop = re.compile(rf"[\d.{DROPPED}{MINUS}-]+|\s+")
        return drop.sub("", one) == drop.sub("", other)
    numbers = [[float(x.replace(MINUS, "-")) for x in NUMBER.findall(text)] for text in (one, other)]
    words = [" ".join(NUMBER.sub(" ", text).split()) for text in (one, other)]
    return words[0] == words[1] and numbers[0] == pytest.approx(numbers[1], abs=DIGITS, rel=1e-3)


def check(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert blocks(text), page
    for (kind, written), (_, now) in zip(blocks(text), blocks(answered(page)), strict=True):
        assert same(kind, written, now), f"{page}: run make docs"


@pytest.mark.slow
def test_path() -> None:
    """The path, all stations."""
    check(PATH)


def test_same() -> None:
    """Another word or number is noticed, rounding is not."""
    assert same("text", f"a 0.1234 {MINUS}1", f"a 0.1235 {MINUS}1")
    assert same("text by chance", "a 1.0", f"a {DROPPED}")
    assert not same("text", "a 0.1234", "a 0.1334") and not same("text", "a 1", "b 1") and not same("text", "1", "1 2")
    assert not same("text", f"{MINUS}1", "1") and not same("text by chance", "a 1.0", "b 1.0")


def test_index() -> None:
    """The index names every question once, as the page does."""
    links = re.findall(r"^- \[(.+)\]\((\w+\.md)\)$", INDEX.read_text(encoding="utf-8"), re.MULTILINE)
    titles = {page.name: page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for page in PAGES[1:]}
    assert {name: title for title, name in links} == titles and len(links) == len(titles)


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)
def test_question(page: Path) -> None:
    """The answer is computed, and is the one on the page."""
    check(page)
