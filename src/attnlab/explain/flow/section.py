"""The figure's part of the page: its markup, its style and its script."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnlab.explain.flow.chapter_figures import FIGURES, Figure
from attnlab.explain.flow.encode import encoded
from attnlab.explain.steps import Explanation
from attnlab.inspection.tab.scripts import as_data

STATIC = Path(__file__).parent / "static"
FIRST_WAY = ", the first way to mask"
SCRIPTS = ("numbers.js", "made_of.js", "place.js", "draw.js", "figure.js")


def section(explanations: Sequence[Explanation], figure: Figure | None = None) -> str:
    """The figure of these worked examples, opened as a figure of the chapter or as a whole."""
    flows = [
        encoded(flow, name=name, heading=heading, tokens=e.tokens, focus=e.focus)
        for e in explanations
        for name, heading, flow in (
            (e.name, e.heading, e.flow),
            (e.name + FIRST_WAY, f"The same, masked the first way ({e.name})", e.first_way),
        )
        if flow is not None
    ]
    names = {e.name for e in explanations} if figure is not None or len(explanations) > 2 else set()
    figures = [_state(one) for one in FIGURES.values() if one.name in names]
    start: dict[str, Any] = {"name": explanations[0].name} if figure is None else _state(figure)
    return (
        '<section class="flow" aria-label="The flow, drawn"><div class="flow-bar"></div><p class="flow-caption"></p>'
        '<div class="flow-stage"></div><div class="flow-words"></div>'
        '<div class="flow-panel" aria-live="polite"></div></section>'
        + as_data({"flows": flows, "start": start, "figures": figures}, "flow-data")
    )


def style() -> str:
    """The figure's style sheet."""
    return (STATIC / "flow.css").read_text(encoding="utf-8")


def code() -> str:
    """The figure's script, whose names are its own."""
    return "{" + "".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS) + "}"


def _state(figure: Figure) -> dict[str, Any]:
    """A figure as the page opens it."""
    name = figure.name + (FIRST_WAY if figure.first_way else "")
    return {"number": figure.number, "title": figure.title, "name": name, "step": figure.step, "token": 1}
