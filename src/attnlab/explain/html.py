"""The worked example as one HTML file that needs nothing else: no network, no other file."""

import base64
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from attnlab.explain.compare import Pairing
from attnlab.explain.flow import section as flow_section
from attnlab.explain.flow.chapter_figures import Figure
from attnlab.explain.numbers import LEVELS, MOST_COLUMNS, MOST_TOKENS, levels, written
from attnlab.explain.pictures import draw_step
from attnlab.explain.step_parts import Part
from attnlab.explain.steps import Explanation, Step
from attnlab.inspection.figures import printable, to_png

STATIC = Path(__file__).parent / "static"
SECTIONS: tuple[tuple[tuple[Part, ...], str, str], ...] = (
    (("inputs",), "The tokens as vectors", "Each token comes as a row of numbers."),
    (
        ("projections",),
        "What each token asks, offers and hands over",
        "Made from each token alone, by learned matrices.",
    ),
    (
        ("scores", "weights", "dropout"),
        "All tokens at once",
        "A row for each token that looks, a column for each one looked at.",
    ),
    (("context", "output"), "Context vectors and output", "What each token knows about the others afterwards."),
    (("state",), "The memory", "A layer of this family keeps no list of past tokens, only what is shown here."),
)


def page(
    title: str, explanations: Sequence[Explanation], pairing: Pairing | None = None, figure: Figure | None = None
) -> str:
    """The whole page: the figure, then all numbers; several examples stand one below the other, in their order."""
    links = "".join(f'<a href="#{i}">{escape(e.heading)}</a>' for i, e in enumerate(explanations))
    nav = f"<nav>{links}</nav>" if len(explanations) > 1 else ""
    articles = "".join(
        f'<article id="{i}">{"".join(_article(e, pairing))}</article>' for i, e in enumerate(explanations)
    )
    first = explanations[0]
    drawn = explanations if pairing is None else (pairing.one, pairing.other)
    styles = (STATIC / "page.css").read_text(encoding="utf-8") + flow_section.style()
    scripts = (STATIC / "page.js").read_text(encoding="utf-8") + flow_section.code()
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{styles}</style></head><body><main>'
        f"<h1>{escape(title)}</h1>{_token_bar(first)}{flow_section.section(drawn, figure)}{nav}{articles}</main>"
        f"<script>{scripts}</script></body></html>\n"
    )


def _token_bar(e: Explanation) -> str:
    few = len(e.tokens) <= MOST_TOKENS
    buttons = "".join(
        f'<button type="button" data-t="{i}" class="{_on(i, e)}">{_name(token)}</button>'
        for i, token in enumerate(e.tokens)
        if few or i == e.focus
    )
    hint = "Click a token to follow it:" if few else "Following one token:"
    return f'<div class="tokens"><span class="soft small">{hint}</span>{buttons}</div>'


def _article(e: Explanation, pairing: Pairing | None) -> Iterator[str]:
    yield f"<h2>{escape(e.heading)}</h2>"
    yield f'<p class="lead">{_prose(e.about[0])}</p>'
    yield from (f'<p class="soft">{_prose(text)}</p>' for text in e.about[1:])
    if pairing is not None:
        yield f"<p>Step by step beside <b>{escape(pairing.other.heading)}</b>: {_prose(pairing.other.about[0])}</p>"
        yield f'<p class="soft">{escape(pairing.settings)}</p>'
    if e.notes:
        yield f'<div class="notes">{"<br>".join(escape(note) for note in e.notes)}</div>'
    if e.slots:
        choices = "".join(f"<dt>{escape(name)}</dt><dd>{_prose(text)}</dd>" for name, text in e.slots)
        summary = f"<summary>The parts of this layer ({len(e.slots)})</summary>"
        yield f'<details open>{summary}<dl class="slots">{choices}</dl></details>'
    yield (
        '<p class="soft small legend">Colours:<i style="background:var(--warm)"></i>above 0'
        '<i style="background:var(--cold)"></i>below 0<i style="background:var(--share)"></i>weights'
        '<i style="background:var(--never)"></i>may not be read</p>'
    )
    number = 0
    for parts, heading, text in SECTIONS:
        steps = [step for step in e.steps if step.part in parts]
        if not steps:
            continue
        number += 1
        yield _heading(number, heading, text)
        yield from (_step(step, e, pairing) for step in steps)
    if pairing is not None and pairing.missing:
        number += 1
        name = pairing.other.name
        yield _heading(number, f"Steps that only {name} takes", "They have no counterpart here.")
        yield from (_step(step, pairing.other, None) for step in pairing.missing)


def _heading(number: int, text: str, under: str) -> str:
    return f'<h3 class="part"><span class="n">{number}</span>{escape(text)}</h3><p class="soft">{escape(under)}</p>'


def _step(step: Step, e: Explanation, pairing: Pairing | None) -> str:
    badge, beside = "", ""
    partner = None if pairing is None else pairing.partner(step.key)
    if pairing is not None:
        differs = partner is not None and not pairing.same(step.key)
        kind = "only" if partner is None else "differs" if differs else "same"
        badge = f'<span class="badge {kind}">{escape(pairing.verdict(step.key))}</span>'
        if partner is not None and differs:
            beside = f'<h5 class="soft">in {escape(pairing.other.name)}</h5>{_numbers(partner, pairing.other)}'
    return (
        f'<div class="step" data-key="{escape(step.key)}"><h4>{escape(step.title)} {badge}</h4>'
        f'<p class="soft small">{_prose(step.text)}</p>{_numbers(step, e)}{beside}</div>'
    )


def _numbers(step: Step, e: Explanation) -> str:
    """The numbers of a step as tables where they can be read, else as a picture."""
    if len(e.tokens) > MOST_TOKENS or step.values.shape[-1] > 2 * MOST_COLUMNS:
        png = base64.b64encode(to_png(draw_step(step, e.tokens))).decode()
        picture = f'<img alt="{escape(step.title)}" src="data:image/png;base64,{png}">'
        return f"{_scrolled('scroll')}{picture}</div>"
    if step.shape == "state":
        return "".join(_memory(step, e, i) for i in range(len(e.tokens)))
    columns = e.tokens if step.shape == "pairs" else None
    tables = [
        _table(_head(step, h), e.tokens, columns, step, values, None if step.hidden is None else step.hidden[h], e)
        for h, values in enumerate(step.values)
    ]
    return f"{_scrolled('row scroll')}{''.join(tables)}</div>"


def _scrolled(kind: str) -> str:
    """The beginning of a part that may be wider than the page; a keyboard scrolls it, too."""
    return f'<div class="{kind}" tabindex="0" role="group" aria-label="Numbers">'


def _memory(step: Step, e: Explanation, token: int) -> str:
    """What is kept once this token has been read."""
    tables = []
    for head, values in enumerate(step.values[token]):
        labels = [f"row {i}" for i in range(len(values))]
        heads = step.values.shape[1]
        caption = f"head {head + 1}" if heads > 1 else ""
        tables.append(_table(caption, labels, None, step, values, None, None))
    return (
        f'<div class="one {_on(token, e)}" data-t="{token}"><p class="small">after <b>{_name(e.tokens[token])}</b></p>'
        f"{_scrolled('row scroll')}{''.join(tables)}</div></div>"
    )


def _table(
    caption: str,
    rows: Sequence[str],
    columns: Sequence[str] | None,
    step: Step,
    values: np.ndarray,
    hidden: np.ndarray | None,
    e: Explanation | None,
) -> str:
    """One head's numbers. With an example given, its rows are tokens, and the followed one is marked."""
    head = ""
    if columns is not None:
        head = f"<thead><tr><th></th>{''.join(f'<th>{_name(column)}</th>' for column in columns)}</tr></thead>"
    body = []
    for i, name in enumerate(rows):
        cells = "".join(
            _cell(float(values[i, j]), step, hidden is not None and bool(hidden[i, j])) for j in range(values.shape[1])
        )
        mark = "" if e is None else f' data-t="{i}" class="{_on(i, e)}"'
        body.append(f"<tr{mark}><th>{_name(name)}</th>{cells}</tr>")
    shown = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{shown}{head}<tbody>{''.join(body)}</tbody></table>"


def _cell(value: float, step: Step, hidden: bool) -> str:
    if hidden:
        return '<td class="never" title="may not be read">·</td>'
    level = int(levels(np.array(value), step.largest))
    tone = "m" if level < 0 else "p" if step.diverging else "w"
    return f'<td class="{tone}" style="--s:{abs(level) * 100 // LEVELS}%">{written(value)}</td>'


def _head(step: Step, head: int) -> str:
    return f"head {head + 1}" if len(step.values) > 1 else ""


def _on(token: int, e: Explanation) -> str:
    return "on" if token == e.focus else ""


def _prose(text: str) -> str:
    """A sentence of a docstring, in which `names` of the code stand between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _name(token: str) -> str:
    """A token as it may stand in a page: nothing in it is markup, and what cannot be seen is spelled out."""
    return escape(printable(token))
