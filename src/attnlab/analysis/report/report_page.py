"""A report as one page that needs nothing beside itself, not even a network."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from attnlab.analysis.report.document import Document, Lines, PageLink, Picture, Section, Table

STYLE, SCRIPT = (Path(__file__).with_name(f"report_page.{kind}") for kind in ("css", "js"))
VERDICTS = ("better", "worse", "equivalent")
FEW = 3  # sections; a page of so few needs no contents


def to_html(document: Document) -> str:
    """The page, for light and dark screens, for print and for keyboards."""
    ids = _ids(document.sections)
    body = "\n".join(_section(section, name) for section, name in zip(document.sections, ids, strict=True))
    contents = len(document.sections) > FEW
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><link rel="icon" href="data:,"><title>{html.escape(document.title)}</title>'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>"
    )
    return (
        f"{head}\n<body>\n<header><h1>{html.escape(document.title)}</h1>"
        f'<p class="summary">{html.escape(document.summary)}</p></header>\n'
        f"<div{' class=contents' * contents}>\n{_contents(document.sections, ids) if contents else ''}"
        f"<main>\n{body}\n</main></div>\n<script>{SCRIPT.read_text(encoding='utf-8')}</script>\n</body></html>\n"
    )


def _ids(sections: Sequence[Section]) -> list[str]:
    return [re.sub(r"\W+", "-", section.title.lower()).strip("-") for section in sections]


def _contents(sections: Sequence[Section], ids: Sequence[str]) -> str:
    items = (
        f'<li><a href="#{name}">{html.escape(section.title)}</a></li>'
        for section, name in zip(sections, ids, strict=True)
    )
    return f'<nav aria-labelledby="contents"><h2 id="contents">Contents</h2><ol>{"".join(items)}</ol></nav>\n'


def _section(section: Section, name: str) -> str:
    parts = [
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{html.escape(section.title)}</h2>'
    ]
    for block in section.blocks:
        if isinstance(block, Table):
            parts.append(_table(block, section.title))
        elif isinstance(block, Picture):
            box = _scrolling(_sized(block.svg), f"{section.title}, drawn")
            caption = f"<figcaption>{html.escape(block.caption)}</figcaption>"
            parts.append(f"<figure>{box}{caption}{_files(block.files)}</figure>")
        elif isinstance(block, Lines):
            parts.append(_lines(block))
        else:
            parts.append(f"<p>{html.escape(block)}</p>")
    return "\n".join([*parts, "</section>"])


def _sized(svg: str) -> str:
    """A drawing that tells the page how wide it is, which lets it grow and shrink by so much."""
    width = re.search(r'viewBox="0 0 (\d+)', svg)
    return svg.replace("<svg ", f'<svg style="--natural: {width[1]}px" ', 1) if width else svg


def _lines(block: Lines) -> str:
    shown = f"<pre>{html.escape(block.text)}</pre>"
    return f"<details><summary>{html.escape(block.title)}</summary>{shown}</details>" if block.title else shown


def _scrolling(content: str, name: str) -> str:
    return f'<div class="wide" role="group" aria-label="{html.escape(name)}">{content}</div>'


def _files(files: Sequence[PageLink]) -> str:
    return f'<p class="files">{" · ".join(map(_link, files))}</p>' if files else ""


def _link(text: str) -> str:
    """A cell or the name of a file; only a `PageLink` leads somewhere."""
    escaped = html.escape(text)
    return f'<a href="{html.escape(text.address)}">{escaped}</a>' if isinstance(text, PageLink) else escaped


def _table(shown: Table, title: str) -> str:
    def cell(tag: str, i: int, text: str, more: str = "") -> str:
        word = re.split("[,;]", text)[0] if tag == "td" else ""  # "better, exploratory"
        kind = " ".join(filter(None, ("number" if i in shown.numbers else "", word if word in VERDICTS else "")))
        content = _link(text)
        if tag == "td" and i in shown.numbers and " (" in text:  # where a line may end
            content = re.sub(r"(\S.*?) (\(.*)", r"<span>\1</span> <span>\2</span>", content)
        return f"<{tag}{f' class={kind!r}' if kind else ''}{more}>{content}</{tag}>"

    def row(cells: Sequence[str]) -> str:
        first, *rest = cells
        head = cell("th", 0, first, " scope=row") if first else cell("td", 0, first)
        return f"<tr>{head}{''.join(cell('td', i, text) for i, text in enumerate(rest, 1))}</tr>"

    caption = f"<caption>{html.escape(shown.caption)}</caption>" if shown.caption else ""
    columns = "".join(cell("th", i, name, " scope=col") for i, name in enumerate(shown.columns))
    body = "".join(map(row, shown.rows))
    table = f"<table>{caption}<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"
    return _scrolling(table, f"{title}, table") + _files(shown.files)
