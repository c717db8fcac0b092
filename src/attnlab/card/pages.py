"""The card as a table in the terminal and as one page that needs nothing beside itself."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console

from attnlab.analysis.report.document import Document, Picture, Section, table
from attnlab.analysis.report.report_page import to_html
from attnlab.analysis.report.tables import draw as print_table
from attnlab.card.battery import CONTROLS, FACTORS, Result, above, best_control
from attnlab.card.picture import draw, figures_of, floor_of, shown
from attnlab.store.files import write_atomically

LIMITS = (
    "One seed, one learning rate and a minute or so for each cell, in a model of two layers: a failure says that a "
    "variant did not learn the task under these settings, not that it never could. Variants differ in parameters, and "
    "a short convolution alone changes who solves recall, so compare those that share it."
)


ABOVE = "above the best control by more than the 95 % errors of both; a loss: below that of the best control."
CONTROLLED = (
    "Trained controls, each with its size in the table above: identity moves nothing between tokens, uniform averages "
    "all of them, identity+conv4 sees the last four. A variant that is not above the best of them has not shown on "
    "this cell that it can look something up. Errors are those of other rows, not of other seeds."
)


def line(result: Result) -> str:
    """One cell, as soon as it is known."""
    head = f"  {result.variant:20s} {result.cell:16s}"
    if result.trouble:
        return f"{head} not measured: {result.trouble}"
    seconds = result.summary.get("seconds") or 0.0
    return f"{head} {'  '.join(f'x{factor} {shown(result, factor):>5s}' for factor in FACTORS)}   {seconds:5.0f} s"


def rows(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """The columns and rows of the table: a task, its floor and ceiling, and a column for each variant."""
    variants = list(dict.fromkeys(r.variant for r in results))
    by_place = {(r.variant, r.cell): r for r in results}
    lines = []
    for cell in dict.fromkeys(r.cell for r in results):
        task = next((r for r in results if r.cell == cell and r.is_task), None)
        name = "accuracy" if task and not task.by_loss else "loss"
        show = (lambda number: f"{number:.0%}") if name == "accuracy" else (lambda number: f"{number:.2f}")
        bounds = [floor_of(task), show(task.ceiling[name])] if task else ["", ""]
        values = []
        for variant in variants:
            result = by_place.get((variant, cell), Result(variant, cell, {}))
            values.append(
                " · ".join(
                    shown(result, factor) + ("▲" if above(result, results, factor) else "") for factor in FACTORS
                )
            )
        lines.append([cell, name, *bounds, *values])
    numbers = [figures_of(results, variant) for variant in variants]
    for i, label in enumerate(("parameters", "tokens/s", "state bytes")):
        lines.append([label, "", "", "", *(pair[i] or "-" for pair in numbers)])
    return ["cell", "measure", "floor", "ceiling", *(f"{variant} x1·x2·x4·x8" for variant in variants)], lines


def against_controls(results: Sequence[Result]) -> list[list[str]]:
    """Each variant on each cell, at the trained length and beyond, beside the control that did best there."""
    lines = []
    for result in results:
        for factor in FACTORS:
            control, higher = best_control(results, result.cell, factor), above(result, results, factor)
            if result.variant in CONTROLS:
                continue
            verdict = {None: "not measured", True: "above the best control", False: "not above the best control"}
            theirs = "-" if control is None else f"{control.variant} {with_error(control, factor)}"
            lines.append(
                [result.variant, result.cell, f"x{factor}", with_error(result, factor), theirs, verdict[higher]]
            )
    return lines


def with_error(result: Result, factor: int) -> str:
    """A value and half of its 95 % interval."""
    value = result.value(factor)
    if value is None or result.by_loss:
        return shown(result, factor)
    return f"{value:.1%} ± {result.error(factor):.1%}"


def show(results: Sequence[Result], console: Console) -> None:
    """The card in a terminal."""
    print_table(table(*rows(results)), console)


def save(results: Sequence[Result], folder: Path, command: str) -> list[Path]:
    """Write card.png and card.html; returns where they are."""
    picture = draw(results)
    columns, lines = rows(results)
    troubles = [
        [r.variant, r.cell, f"x{factor}", r.reason(factor)]
        for r in results
        for factor in FACTORS
        if r.value(factor) is None
    ]
    sections = [
        Section("The card", [Picture("card", _embedded(picture), "From the floor (pale) to the ceiling (dark).")]),
        Section("The numbers", [table(columns, lines, "Beyond the trained length from x2 on. ▲: " + ABOVE)]),
        Section(
            "Against the controls",
            [
                CONTROLLED,
                table(["variant", "cell", "length", "value", "best control", "verdict"], against_controls(results)),
            ],
        ),
        Section("By difficulty", [table(["variant", "cell", "slice", "accuracy", "answers"], _slices(results))]),
        Section("What was not measured", [table(["variant", "cell", "length", "reason"], troubles)])
        if troubles
        else Section("What was not measured", ["Everything was."]),
        Section("Limits", [LIMITS, f"Made by: {command}"]),
    ]
    variants = ", ".join(dict.fromkeys(r.variant for r in results))
    page = to_html(Document(f"Capability card: {variants}", "Each task against its floor and its ceiling.", sections))
    paths = [folder / "card.png", folder / "card.html"]
    for path, content in zip(paths, (picture, page.encode()), strict=True):
        write_atomically(path, content, key="folder")
    return paths


def _slices(results: Sequence[Result]) -> list[list[str]]:
    return [
        [r.variant, r.cell, name, f"{part['accuracy']:.2f}", f"{part['count']:.0f}"]
        for r in results
        for name, part in r.summary.get("slices", {}).items()
    ]


def _embedded(picture: bytes) -> str:
    """A PNG inside an SVG, which is what a page can hold."""
    width, height = Image.open(io.BytesIO(picture)).size
    source = html.escape(f"data:image/png;base64,{base64.b64encode(picture).decode()}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="the card">'
        f'<image href="{source}" width="{width}" height="{height}"/></svg>'
    )
