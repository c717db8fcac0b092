"""A report as a list of sections: written once, shown as Markdown, as a page (report_page.py) or in a terminal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field


class PageLink(str):
    """Words that lead somewhere: a cell of a table, or a file beside a block."""

    address: str  # as it stands in the page: relative to the report, or #section

    def __new__(cls, text: str, address: str) -> "PageLink":
        link = super().__new__(cls, text)
        link.address = address
        return link


@dataclass(frozen=True)
class Table:
    """Rows of words under columns; `numbers` are the columns that are set to the right, `files` hold the same."""

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    numbers: frozenset[int] = frozenset()
    files: tuple[PageLink, ...] = ()


@dataclass(frozen=True)
class Picture:
    """An SVG drawing, whole in itself, and what it shows in words."""

    name: str  # of its file, without the ending
    svg: str
    caption: str
    files: tuple[PageLink, ...] = ()


@dataclass(frozen=True)
class Lines:
    """Text that is shown as it is: commands, lists of runs. With a title a page shows it when asked."""

    text: str
    title: str = ""


Block = str | Table | Picture | Lines


def some(block: Block | None) -> list[Block]:
    """The block, if there is one."""
    return [] if block is None else [block]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; a text is one paragraph."""

    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """A report."""

    title: str
    summary: str  # the one sentence for those who read no further
    sections: list[Section]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Table:
    """A table whose columns of figures are found by what stands in them; a column without content is left out."""
    shown_columns = [i for i in range(len(columns)) if not rows or any(row[i] for row in rows)]
    columns, rows = [columns[i] for i in shown_columns], [[row[i] for i in shown_columns] for row in rows]
    numbers = frozenset(
        i for i in range(len(columns)) if rows and all(_is_figure(row[i]) for row in rows if row[i] not in ("", "none"))
    )
    return Table(list(columns), [list(row) for row in rows], caption, numbers)


def _is_figure(text: str) -> bool:
    return text[:1] in "0123456789+-<[" or text.startswith("1 of")


def to_markdown(document: Document) -> str:
    """The report as Markdown; its pictures are files beside it, in pictures/."""
    parts = [f"# {_escaped(document.title)}", _escaped(document.summary)]
    for section in document.sections:
        parts.append(f"## {_escaped(section.title)}")
        for block in section.blocks:
            if isinstance(block, Table):
                parts.append(markdown_table(block))
            elif isinstance(block, Picture):
                parts.append(f"![{_escaped(block.caption)}](pictures/{block.name}.svg)")
                parts.append(f"*{_escaped(block.caption)}*")
            elif isinstance(block, Lines):
                fence = max(re.findall("`{3,}", block.text), key=len, default="``") + "`"  # longer than any within
                parts.append(f"{fence}text\n{block.text}\n{fence}")
            else:
                parts.append(_escaped(block))
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """Underscores and stars in names are no emphasis, and nothing in them is HTML, code, a link or a new line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\_*`~]|(?<=\])[(\[:]|^#)", r"\\\1", text)


def _linked(cell: str) -> str:
    text = _escaped(cell)
    return f"[{text}](<{cell.address}>)" if isinstance(cell, PageLink) and not cell.address.startswith("#") else text


def markdown_table(shown: Table) -> str:
    """A table as Markdown, below its caption."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_linked(cell).replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join("---:" if i in shown.numbers else "---" for i in range(len(shown.columns))) + "|"
    lines = [line(shown.columns), rule, *(line(row) for row in shown.rows)]
    return "\n".join([*([_escaped(shown.caption), ""] if shown.caption else []), *lines])
