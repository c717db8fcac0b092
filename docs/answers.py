"""Writes what the commands of docs/path.md and docs/questions say, below each of them: python -m docs.answers

A block of `sh` holds commands of attnlab, a block of `python` a program; the block of `text` after it is their output,
without the line that says where files were written. `text by chance` holds numbers that another machine draws
differently.
"""

import contextlib
import io
import os
import re
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from docs.variants import ROOT

from attnlab.cli import main as attnlab
from attnlab.store.files import write_atomically

QUESTIONS = ROOT / "docs" / "questions"
PATH = ROOT / "docs" / "path.md"
INDEX = QUESTIONS / "README.md"
PAGES = (PATH, *sorted(page for page in QUESTIONS.glob("*.md") if page != INDEX))
BLOCK = re.compile(r"```(sh|python)\n(.*?)```\n\n```(text(?: by chance)?)\n(.*?)```", re.DOTALL)
COLUMNS = "80"


def answered(page: Path) -> str:
    """A page with the output of each of its blocks anew."""
    space: dict[str, Any] = {}

    def block(match: re.Match[str]) -> str:
        language, code, kind, _ = match.groups()
        return f"```{language}\n{code}```\n\n```{kind}\n{output(language, code, space)}```"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def output(language: str, code: str, space: dict[str, Any]) -> str:
    """What a block prints; the programs of a page go on where the last one ended."""
    stream = io.StringIO()
    was = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        with contextlib.redirect_stdout(stream), TemporaryDirectory() as folder:
            if language == "python":
                exec(compile(code, "block", "exec"), space)
            else:
                for line in code.splitlines():
                    name, *words = shlex.split(line.removeprefix("attnlab "), comments=True)
                    attnlab([name, *words, f"folder={folder}"])
    finally:
        os.environ.pop("COLUMNS") if was is None else os.environ.update(COLUMNS=was)
    lines = [line.rstrip() for line in stream.getvalue().splitlines() if not line.startswith("wrote ")]
    return "\n".join(lines).strip("\n") + "\n"


def main() -> None:
    for page in PAGES:
        write_atomically(page, answered(page).encode(), key=str(page))
        print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
