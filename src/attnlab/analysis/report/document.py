"""A report as a list of sections: written once, shown as Markdown, as a page or in a terminal."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """Rows of words under columns; `numbers` are the columns that are set to the right."""

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """An SVG drawing, whole in itself, and what it shows in words."""

    name: str  # of its file, without the ending
    svg: str
    caption: str


@dataclass(frozen=True)
class Lines:
    """Text that is shown as it is: commands, lists of runs."""

    text: str


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
                parts.append(_markdown_table(block))
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


def _markdown_table(shown: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_escaped(cell).replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join("---:" if i in shown.numbers else "---" for i in range(len(shown.columns))) + "|"
    lines = [line(shown.columns), rule, *(line(row) for row in shown.rows)]
    return "\n".join([*([_escaped(shown.caption), ""] if shown.caption else []), *lines])


STYLE = """
:root { --page: #ffffff; --ink: #1c2127; --soft: #5b6570; --line: #d9dee3; --shade: #f3f5f7; --accent: #1f7fa3;
  --accent-soft: #1f7fa333; --base: #8a939c; --base-soft: #8a939c33; --better: #1a7f4b; --worse: #b3362b;
  --equivalent: #4b57a8; }
@media (prefers-color-scheme: dark) { :root { --page: #14181c; --ink: #e6eaee; --soft: #a3adb7; --line: #343c44;
  --shade: #1d2329; --accent: #58b8d6; --accent-soft: #58b8d63d; --base: #7e8892; --base-soft: #7e88923d;
  --better: #56c98a; --worse: #f0857a; --equivalent: #9aa6f2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 92rem; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { max-width: 46rem; } .summary { font-size: 1.1rem; } figcaption, caption { color: var(--soft); text-align: left; }
caption { padding: .25rem 0 .5rem; } figure { margin: 1rem 0; }
.wide { overflow-x: auto; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td:last-child { min-width: 14rem; } td.number:last-child { min-width: 0; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.better { color: var(--better); font-weight: 600; } td.worse { color: var(--worse); font-weight: 600; }
td.equivalent { color: var(--equivalent); font-weight: 600; }
pre { background: var(--shade); padding: .75rem 1rem; overflow-x: auto; font-size: 13px; border-radius: 4px; }
"""


def to_html(document: Document) -> str:
    """The report as one page that needs nothing beside itself, not even a network, for light and dark screens."""
    parts = [f"<h1>{html.escape(document.title)}</h1>", f'<p class="summary">{html.escape(document.summary)}</p>']
    for section in document.sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        for block in section.blocks:
            if isinstance(block, Table):
                parts.append(_html_table(block))
            elif isinstance(block, Picture):
                caption = f"<figcaption>{html.escape(block.caption)}</figcaption>"
                parts.append(f'<figure><div class="wide">{block.svg}</div>{caption}</figure>')
            elif isinstance(block, Lines):
                parts.append(f"<pre>{html.escape(block.text)}</pre>")
            else:
                parts.append(f"<p>{html.escape(block)}</p>")
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{html.escape(document.title)}</title><style>{STYLE}</style></head>'
    )
    return f"{head}\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _html_table(shown: Table) -> str:
    def cell(tag: str, i: int, text: str) -> str:
        first = text.partition(",")[0]  # "better, exploratory"
        word = first if tag == "td" and first in ("better", "worse", "equivalent") else ""
        kind = " ".join(filter(None, ("number" if i in shown.numbers else "", word)))
        return f"<{tag}{f' class={kind!r}' if kind else ''}>{html.escape(text)}</{tag}>"

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(cell(tag, i, text) for i, text in enumerate(cells)) + "</tr>"

    caption = f"<caption>{html.escape(shown.caption)}</caption>" if shown.caption else ""
    body = "".join(line("td", row) for row in shown.rows)
    return (
        f'<div class="wide"><table>{caption}<thead>{line("th", shown.columns)}</thead><tbody>{body}</tbody>'
        "</table></div>"
    )
