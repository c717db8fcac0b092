"""Builds the site into a folder: python -m docs.website [FOLDER]

The pages are the Markdown of this repository, and those that are written here from the configs, the classes and their
docstrings. Nothing is asked of a network, and the result needs none: open FOLDER/index.html.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from docs.website.staged import ROOT, Stage

# What is written here, at the end of the index.
WRITTEN = """
- [The config](config.md): every key with its comment
- [Python](python.md): functions and classes, from their docstrings
"""
SECTION = re.compile(r"^## (.+)$", re.M)
ENTRY = re.compile(r"^- \[[^\]]+\]\(([\w/.-]+)\.md\)", re.M)


def stage(folder: Path, examples: Path, names: Sequence[str]) -> Stage:
    """The pages that the generator reads, in a folder; the worked examples of these variants in another."""
    from docs.website import config_keys, python_api, variant_pages  # only now: torch takes seconds to import

    result = Stage(folder)
    for file, name in result.pages.items():
        result.write(name, result.page(file))
    for name in names:
        result.write(f"variants/{name}.md", variant_pages.page(name))
        shutil.copyfile(variant_pages.written(name, examples) / "index.html", examples / f"{name}.html")
    variants = (folder / "variants.md").read_text(encoding="utf-8")
    for name in names:
        variants = variants.replace(f"\n| `{name}` | ", f"\n| [`{name}`](variants/{name}.md) | ")
    result.write("variants.md", variants + tree("", [f"variants/{name}" for name in names]))
    result.write("config.md", config_keys.page())
    result.write("python.md", python_api.page())
    rest = {name.with_suffix("").as_posix() for name in result.pages.values()}
    for name in [name for name in rest if name.endswith("/README")]:  # whose folder is a menu of its own
        below = {page for page in rest if page.startswith(name.removesuffix("README")) and page != name}
        result.write(f"{name}.md", (folder / f"{name}.md").read_text(encoding="utf-8") + tree("", sorted(below)))
        rest -= below
    index = (folder / "index.md").read_text(encoding="utf-8") + WRITTEN
    result.write("index.md", index + menu(index, rest))
    return result


def menu(index: str, pages: set[str]) -> str:
    """The sections of the index, each with the pages that its list names; what it does not name comes last."""
    _, *parts = SECTION.split(index)
    sections = {title: ENTRY.findall(text) for title, text in zip(parts[::2], parts[1::2], strict=True)}
    named = {"index", *(page for entries in sections.values() for page in entries)}
    sections["More"] = sorted(pages - named)
    return "".join(tree(title, entries) for title, entries in sections.items() if entries)


def tree(caption: str, pages: Sequence[str]) -> str:
    """An entry of the menu, as MyST writes it."""
    lines = [
        "",
        "```{toctree}",
        ":hidden:",
        f":caption: {caption}" if caption else ":titlesonly:",
        "",
        *(f"/{page}" for page in pages),
        "```",
        "",
    ]
    return "\n".join(lines)


def build(out: Path, names: Sequence[str] | None = None) -> None:
    """The whole site, or with the pages of some variants only; warnings of the generator are errors."""
    from sphinx.application import Sphinx

    with TemporaryDirectory() as temporary:
        source, examples = Path(temporary) / "pages", Path(temporary) / "examples"
        staged = stage(source, examples, every_variant() if names is None else names)
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
        (out / "variants" / "explained").mkdir(parents=True)
        for file in examples.glob("*.html"):
            shutil.copyfile(file, out / "variants" / "explained" / file.name)
    for file in staged.files:
        target = out / Stage.place(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    if site.statuscode:
        raise SystemExit(site.statuscode)
    print(f"{len(list(out.rglob('*.html')))} pages: open {out / 'index.html'}")


def every_variant() -> list[str]:
    """The names of all variants."""
    return sorted(file.stem for file in (ROOT / "configs" / "attention").glob("*.yaml"))


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
