"""docs/explain.md: what it links to is there and small, and its commands exist."""

import re
from pathlib import Path

import pytest

from attnlab.cli import parsed

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "explain.md").read_text(encoding="utf-8")
MOST_BYTES = 300_000


def test_every_page_and_picture_is_there_small_and_linked() -> None:
    linked = set(re.findall(r"\]\((explained/[^)]+)\)", TEXT))
    assert linked == {f"explained/{path.name}" for path in (DOCS / "explained").iterdir()}
    assert all((DOCS / name).stat().st_size < MOST_BYTES for name in linked)


@pytest.mark.parametrize("line", re.findall(r"^attnlab (.+?)(?:\s+#.*)?$", TEXT, re.MULTILINE))
def test_every_command_can_be_typed(line: str) -> None:
    name, *words = re.findall(r'(?:[^\s"]|"[^"]*")+', line)
    assert parsed(name, [word.replace('"', "") for word in words])
