"""Builds the site into a folder: python -m docs.website [FOLDER]

The pages are the Markdown of this repository, and those that are written here from the configs, the classes and their
docstrings. Nothing is asked of a network, and the result needs none: open FOLDER/index.html.
"""

import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from docs.website.staged import ROOT, Stage

SECTION = re.compile(r"^## (.+)$", re.M)
ENTRY = re.compile(r"^- \[[^\]]+\]\(([\w/.-]+)\.md\)", re.M)


def stage(folder: Path) -> Stage:
    """The pages that the generator reads, in a folder."""
    result = Stage(folder)
    for file, name in result.pages.items():
        result.write(name, result.page(file))
    index = (folder / "index.md").read_text(encoding="utf-8")
    result.write("index.md", index + menu(index, {name.with_suffix("").as_posix() for name in result.pages.values()}))
    return result


def menu(index: str, pages: set[str]) -> str:
    """The sections of the index, each with the pages that its list names; what it does not name comes last."""
    _, *parts = SECTION.split(index)
    sections = {title: ENTRY.findall(text) for title, text in zip(parts[::2], parts[1::2], strict=True)}
    named = {"index", *(page for entries in sections.values() for page in entries)}
    sections["More"] = sorted(pages - named)
    lines = []
    for title, entries in sections.items():
        if entries:
            lines += ["", "```{toctree}", ":hidden:", f":caption: {title}", "", *entries, "```"]
    return "\n".join([*lines, ""])


def build(out: Path) -> None:
    """The whole site; warnings of the generator are errors."""
    from sphinx.application import Sphinx

    with TemporaryDirectory() as temporary:
        source = Path(temporary) / "pages"
        staged = stage(source)
        shutil.rmtree(out, ignore_errors=True)
        site = Sphinx(
            srcdir=source,
            confdir=Path(__file__).parent,
            outdir=out,
            doctreedir=Path(temporary) / "doctrees",
            buildername="html",
            status=None,
            warningiserror=True,
            exception_on_warning=False,
        )
        site.build()
    for file in staged.files:
        target = out / Stage.place(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    if site.statuscode:
        raise SystemExit(site.statuscode)
    print(f"{len(list(out.rglob('*.html')))} pages: open {out / 'index.html'}")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
