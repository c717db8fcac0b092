"""The Markdown of the repository, laid out as the site has it: one folder of pages, whose links lead to each other."""

import json
import os
import re
from collections.abc import Callable
from html import escape
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
AT_THE_TOP = ("CONTRIBUTING.md", "DESIGN.md", "CHANGELOG.md", "LOG.md")
# A link or a picture of Markdown: what is before its target, and the target; what begins with a scheme leads elsewhere.
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?![a-z]+:)([^()\s]+)\)")
FENCE = re.compile(r"^(```.*?^```$)", re.M | re.S)


def sources() -> dict[Path, PurePosixPath]:
    """Each page of the repository, and what it is called on the site."""
    pages = {ROOT / name: PurePosixPath(name) for name in AT_THE_TOP}
    pages[ROOT / "data" / "README.md"] = PurePosixPath("corpus.md")
    for file in sorted((ROOT / "docs").rglob("*.md")):
        pages[file] = PurePosixPath(file.relative_to(ROOT / "docs").as_posix())
    pages[ROOT / "docs" / "README.md"] = PurePosixPath("index.md")
    return pages


def notebooks() -> dict[Path, PurePosixPath]:
    """Each notebook, and what its page is called on the site."""
    return {file: PurePosixPath(f"notebooks/{file.stem}.md") for file in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def notebook_text(file: Path) -> str:
    """A notebook as Markdown, its code in fences."""
    book = json.loads(file.read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in book["cells"]]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells) + "\n"


def replaced(text: str, link: Callable[[re.Match[str]], str]) -> str:
    """The text with each link replaced; those in code blocks are no links."""
    parts = FENCE.split(text)
    parts[::2] = [LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def links(text: str) -> list[str]:
    """The targets of a page's links inside the repository."""
    targets: list[str] = []
    replaced(text, lambda match: targets.append(match[3]) or match[0])
    return targets


class Stage:
    """The folder that the generator reads; `files` are what pages link to beside pages and pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pages = folder, sources() | notebooks()
        self.files: set[Path] = set()

    def write(self, name: str | PurePosixPath, text: str) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def page(self, file: Path) -> str:
        """A page of the repository with its links as they must be on the site."""
        if file.suffix == ".ipynb":
            self.files.add(file)
            itself = between(self.pages[file], self.place(file))
            return f'{notebook_text(file)}\n<a href="{itself}">The notebook itself</a>\n'
        return replaced(file.read_text(encoding="utf-8"), lambda match: self.link(match, file))

    def link(self, match: re.Match[str], file: Path) -> str:
        picture, text, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path:
            return match[0]
        here, there = self.pages[file], (file.parent / path).resolve()
        if there in self.pages:
            return f"[{text}]({between(here, self.pages[there])}{f'#{anchor}' * bool(anchor)})"
        if not there.exists():
            raise FileNotFoundError(f"{file.relative_to(ROOT)} links to {target}, which does not exist")
        if picture:
            return f"![{text}]({os.path.relpath(there, self.folder / here.parent)})"
        self.files.add(there)
        shown = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
        return f'<a href="{between(here, self.place(there))}">{shown}</a>'

    @staticmethod
    def place(file: Path) -> PurePosixPath:
        """Where the site has a file that is no page."""
        return PurePosixPath("files") / file.relative_to(ROOT).as_posix()


def between(page: PurePosixPath, other: PurePosixPath) -> str:
    """The way from one page to another."""
    return os.path.relpath(other, page.parent)
