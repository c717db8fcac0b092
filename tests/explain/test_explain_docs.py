"""docs/explain.md: what it links to is there and small, and its commands exist."""

import re
from pathlib import Path

import pytest
from docs.worked_examples import COMMANDS, OF_A_RUN, PICTURES, written
from tests.laws.cases import sampled

from attnlab.cli._arguments import parsed

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "explain.md").read_text(encoding="utf-8")
MOST_BYTES = 300_000


def test_pages_are_linked() -> None:
    """Every page and picture is there small and linked."""
    linked = set(re.findall(r"\]\((explained/[^)]+)\)", TEXT))
    made = {*(f"{name}.html" for name in COMMANDS), *PICTURES, *OF_A_RUN}
    assert linked == {f"explained/{name}" for name in made}
    assert linked == {f"explained/{path.name}" for path in (DOCS / "explained").iterdir()}
    assert all((DOCS / name).stat().st_size < MOST_BYTES for name in linked)


@pytest.mark.parametrize("line", re.findall(r"^attnlab (.+?)(?:\s+#.*)?$", TEXT, re.MULTILINE))
def test_every_command_can_be_typed(line: str) -> None:
    name, *words = re.findall(r'(?:[^\s"]|"[^"]*")+', line)
    assert parsed(name, [word.replace('"', "") for word in words])


def words(page: Path) -> str:
    """The page without its numbers, whose last digits another machine may round in another way."""
    return re.sub(r"\d+", "", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sampled([(name,) for name in sorted(COMMANDS)], 3))
def test_pages_are_current(name: str, tmp_path: Path) -> None:
    """Every page says what the command says now."""
    assert words(written(name, tmp_path) / "index.html") == words(DOCS / "explained" / f"{name}.html"), "run: make docs"
