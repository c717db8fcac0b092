"""Links lead somewhere, commands of the pages can be typed, and the site works from a folder without a network."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from docs.website.staged import ROOT, links, sources
from tests.laws.cases import NAMES

from attnlab.cli._arguments import COMMANDS, parsed
from attnlab.config.compose import compose_config
from attnlab.errors import UsageError

PAGES = [ROOT / "README.md", *sources()]
HEADING = re.compile(r"^#+ (.+)$", re.M)


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    titles = [re.sub(r"[^\w\s-]", "", title.lower()) for title in HEADING.findall(text)]
    return {title.strip().replace(" ", "-") for title in titles}


def dead_links(file: Path, text: str) -> Iterator[str]:
    """The links of a page that lead nowhere in the repository."""
    for target in links(text):
        path, _, anchor = target.partition("#")
        there = (file.parent / path).resolve() if path else file
        if not there.exists() or (
            anchor and anchor not in anchors(text if path == "" else there.read_text(encoding="utf-8"))
        ):
            yield target


def test_links() -> None:
    """Every relative link of the Markdown leads to a file, and to a heading where it names one."""
    for file in PAGES:
        assert [*dead_links(file, file.read_text(encoding="utf-8"))] == [], file.relative_to(ROOT)
    text = "# One\n[a](nothing.md) [b](#two) [c](#one) [d](https://example.org/x.md)\n```\n[e](nothing.md)\n```\n"
    assert [*dead_links(ROOT / "README.md", text)] == ["nothing.md", "#two"]


def commands(pages: Sequence[Path]) -> list[list[str]]:
    """The commands of pages, without their remarks."""
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    typed = [line for line in lines if re.match(r"( {4})?(python train\.py|attnlab) (?!and )[^\\]*$", line)]
    return [shlex.split(line, comments=True) for line in typed]


@pytest.mark.parametrize(("pages", "least"), [(PAGES[:1], 5), pytest.param(PAGES, 90, marks=pytest.mark.slow)])
def test_commands(pages: Sequence[Path], least: int) -> None:
    """Each command of the pages is one that can be typed: its keys exist, and its settings compose."""
    typed = commands(pages)
    assert len(typed) >= least
    for program, name, *words in typed:
        if program == "attnlab" and name in COMMANDS and name != "train":
            parsed(name, words)
        elif program == "python" and not {"-m", "--help", "--config-dir"} & {*words}:
            compose_config([word for word in words if not word.startswith("init_from")])
    swept = [word.partition("=")[2] for words in typed for word in words if word.startswith("attention=")]
    assert {name for word in swept for name in word.split(",")} <= {*NAMES, "my_rule"}


def test_start_commands() -> None:
    """What the first page says can be typed; a wrong key is refused."""
    test_commands([ROOT / "docs" / "start.md"], 20)
    with pytest.raises(UsageError, match="rnu"):
        parsed("generate", ["rnu=runs/default", "prompt=x"])
